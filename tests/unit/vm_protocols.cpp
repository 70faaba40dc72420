// SPDX-License-Identifier: MIT
// If this fails, what QEMU or a hostile guest sends can crash the supervisor, fill its memory, or
// be taken for the answer to another command.
#include <algorithm>
#include <sys/socket.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "vm/supervisor/agent.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/supervisor/qmp.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

using Kind = AgentMessage::Kind;

// Both ends of a stream, and a loop to run ours on.
struct QmpWire {
  std::unique_ptr<Loop> loop = *Loop::create();
  Fd ours, theirs;
  QmpWire() {
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    ours.reset(fds[0]);
    theirs.reset(fds[1]);
  }
  // What they have been sent by now.
  std::string received() {
    spin();
    std::string text;
    char chunk[4096];
    for (ssize_t n; (n = recv(theirs.get(), chunk, sizeof chunk, 0)) > 0;)
      text.append(chunk, static_cast<size_t>(n));
    return text;
  }
  void say(const std::string& text) {
    REQUIRE(send(theirs.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(text.size()));
    spin();
  }
  void spin() {
    for (int i = 0; i < 4; ++i) REQUIRE(loop->run_once(1));
  }
  void answer_sync(const Agent& agent, std::string asked);
};

uint64_t sync_id_in(const std::string& text) {
  const auto request = parse_json(text.substr(text.rfind('\xff') + 1));
  REQUIRE(request);
  REQUIRE((*request)["execute"] == "guest-sync-delimited");
  return (*request)["arguments"]["id"].get<uint64_t>();
}

std::string sync_reply(uint64_t id) {
  return "\xff{\"return\": " + std::to_string(id) + "}\n";
}

// The latest one is answered: a sync that had to wait is sent again, with another number.
void QmpWire::answer_sync(const Agent& agent, std::string asked) {
  const Deadline deadline = Deadline::in_ms(20'000);
  while (!agent.is_ready() && !deadline.passed()) {
    asked += received();
    say(sync_reply(sync_id_in(asked)));
  }
  REQUIRE(agent.is_ready());
}

// A connected agent that has answered its first sync.
struct ReadyAgent : QmpWire {
  Agent agent{*loop};
  ReadyAgent() {
    agent.connect(std::move(ours));
    agent.port_changed(true);
    answer_sync(agent, received());
  }
};

}  // namespace

TEST_CASE("lines: cut out of any chunks, bounded") {
  LineBuffer lines(16);
  CHECK(lines.feed("on"));
  CHECK_FALSE(lines.next());
  CHECK(lines.feed("e\r\ntwo\n\nthr"));
  CHECK(lines.next() == "one");
  CHECK(lines.next() == "two");
  CHECK(lines.next() == "");
  CHECK_FALSE(lines.next());
  CHECK(lines.feed("ee\n"));
  CHECK(lines.next() == "three");
  CHECK_FALSE(lines.feed(std::string(17, 'x')));
  CHECK(lines.feed("after\n"));
  CHECK(lines.next() == "after");
}

TEST_CASE("qmp: each kind of line") {
  CHECK(parse_qmp(R"({"QMP":{"version":{}}})").kind == QmpMessage::Kind::greeting);
  const auto reply = parse_qmp(R"({"return":{"a":1},"id":7})");
  CHECK(reply.kind == QmpMessage::Kind::reply);
  CHECK(reply.id == 7);
  CHECK(parse_qmp(R"({"error":{"class":"X","desc":"no"},"id":1})").kind == QmpMessage::Kind::error);
  CHECK(parse_qmp(R"({"event":"RESET","data":{}})").kind == QmpMessage::Kind::event);
  for (const char* bad : {"", "{", "[]", "7", "null", "{}", R"({"error":1})", R"({"event":5})",
                          "\xff\xfe", R"({"return":1,"return":2})"})
    CHECK(parse_qmp(bad).kind == QmpMessage::Kind::garbage);
}

TEST_CASE("agent: each kind of line") {
  CHECK(parse_agent("\xff{\"return\":5}").kind == Kind::sync);
  CHECK(parse_agent("rest of an old answer\xff{\"return\":5}").sync_id == 5);
  CHECK(parse_agent("{\"return\":{}}").kind == Kind::reply);
  CHECK(parse_agent("{\"error\":{\"desc\":\"x\"}}").kind == Kind::error);
  for (const char* bad : {"\xff", "\xff{\"return\":-5}", "\xff{\"return\":\"5\"}",
                          "\xff{\"error\":{}}", "{\"return\":", "\xff\xff\xff", "{}"})
    CHECK(parse_agent(bad).kind == Kind::garbage);
}

TEST_CASE("agent, qmp: random bytes are never more than garbage") {
  const uint64_t seed = fresh_seed();
  CAPTURE(seed);
  uint64_t x = seed | 1;
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 40; ++i) {
      x = x * 6364136223846793005U + 1442695040888963407U;
      constexpr char k_likely[] = "{}[]\",:\xff\\re\"turn\"0u";
      text += k_likely[(x >> 33) % (sizeof k_likely - 1)];
    }
    parse_agent(text);
    parse_qmp(text);
  }
}

TEST_CASE("agent: commands wait for the sync and go out one at a time") {
  QmpWire wire;
  Agent agent(*wire.loop);
  std::vector<std::string> answers;
  const auto note = [&](Result<json> result) {
    answers.push_back(result ? to_line(*result) : result.error().message);
  };
  agent.call("one", nullptr, 60 * k_ns_per_s, note);
  agent.call("two", nullptr, 60 * k_ns_per_s, note);
  agent.connect(std::move(wire.ours));
  CHECK(wire.received().empty());
  agent.port_changed(true);
  std::string asked = wire.received();
  const uint64_t id = sync_id_in(asked);
  wire.say("{\"return\":\"of somebody before us\"}\n" + sync_reply(id - 1));
  CHECK_FALSE(agent.is_ready());
  asked += wire.received();
  CHECK(asked.find("\"one\"") == std::string::npos);
  wire.answer_sync(agent, asked);
  CHECK(wire.received() == "{\"execute\":\"one\"}\n");
  wire.say("{\"return\":1}\n");
  CHECK(wire.received() == "{\"execute\":\"two\"}\n");
  wire.say(sync_reply(id) + "{\"error\":{\"desc\":\"sorry\"}}\n{\"return\":\"unasked\"}\n");
  CHECK(answers == std::vector<std::string>{"1", "guest agent: sorry"});
}

TEST_CASE("agent: a late answer is not taken for the next command's") {
  ReadyAgent wire;
  std::vector<std::string> answers;
  const auto note = [&](Result<json> result) {
    answers.push_back(result ? to_line(*result) : std::string(code_name(result.error().code)));
  };
  wire.agent.call("slow", nullptr, k_ns_per_ms, note);
  wire.agent.call("next", nullptr, 60 * k_ns_per_s, note);
  while (answers.empty()) wire.spin();
  const std::string sent = wire.received();
  wire.say("{\"return\":\"late\"}\n");
  CHECK(answers == std::vector<std::string>{"timeout"});
  wire.answer_sync(wire.agent, sent);
  CHECK(wire.received() == "{\"execute\":\"next\"}\n");
  wire.say("{\"return\":\"next\"}\n");
  CHECK(answers == std::vector<std::string>{"timeout", "\"next\""});
}

TEST_CASE("agent: an agent that restarts fails the command in flight and serves the rest") {
  ReadyAgent wire;
  std::vector<std::string> answers;
  const auto note = [&](Result<json> result) {
    answers.push_back(result ? to_line(*result) : std::string(code_name(result.error().code)));
  };
  wire.agent.call("lost", nullptr, 60 * k_ns_per_s, note);
  wire.agent.call("next", nullptr, 60 * k_ns_per_s, note);
  wire.received();
  const uint64_t left_ns = system_clock().now_ns();
  wire.agent.port_changed(false);
  wire.agent.port_changed(true);
  wire.answer_sync(wire.agent, wire.received());
  wire.say("{\"return\":2}\n");
  const bool in_time = system_clock().now_ns() - left_ns < 500 * k_ns_per_ms;
  while (answers.size() < 2) wire.spin();
  if (!in_time) std::sort(answers.begin(), answers.end());  // the lost one waits 500 ms
  CHECK(answers == std::vector<std::string>{"2", "agent"});
}

TEST_CASE("agent: nothing answers") {
  QmpWire wire;
  Agent agent(*wire.loop);
  std::optional<Code> code;
  agent.call("x", nullptr, k_ns_per_ms, [&](Result<json> result) { code = result.error().code; });
  while (!code) wire.spin();
  CHECK(code == Code::no_agent);
}

TEST_CASE("agent: the queue is bounded") {
  QmpWire wire;
  Agent agent(*wire.loop);
  size_t refused = 0;
  for (int i = 0; i < 5000; ++i)
    agent.call("x", nullptr, k_ns_per_s, [&](Result<json> result) { refused += !result; });
  CHECK(refused == 5000 - 1024);
}

TEST_CASE("qmp: replies are matched by id, unknown ones dropped") {
  QmpWire wire;
  std::vector<std::string> answers;
  bool ready = false;
  Qmp qmp(*wire.loop, std::move(wire.ours), {[&] { ready = true; }, nullptr, nullptr});
  wire.say("{\"QMP\":{}}\n");
  CHECK(wire.received().find("qmp_capabilities") != std::string::npos);
  wire.say("{\"return\":{},\"id\":1}\n");
  CHECK(ready);
  const auto note = [&](Result<json> result) {
    answers.push_back(result ? to_line(*result) : result.error().message);
  };
  qmp.execute("a", nullptr, 60 * k_ns_per_s, note);
  qmp.execute("b", {{"x", 1}}, 60 * k_ns_per_s, note);
  wire.say(
      "{\"return\":9,\"id\":99}\nnonsense\n{\"error\":{\"desc\":\"no b\"},\"id\":3}\n"
      "{\"return\":1,\"id\":2}\n{\"return\":1,\"id\":2}\n");
  CHECK(answers == std::vector<std::string>{"QEMU refuses b: no b", "1"});
}

TEST_CASE("run: what the agent says becomes a result as a shell would have it") {
  const std::vector<std::string> argv = {"x"};
  const json good = run_document(
      argv, {{"exited", true}, {"exitcode", 3}, {"out-data", "AP8="}, {"out-truncated", true}});
  CHECK(good["exit_status"] == 3);
  CHECK(good["stdout_b64"] == "AP8=");
  CHECK(good["stdout_truncated"] == true);
  CHECK(good["stderr"] == "");
  CHECK_FALSE(good.contains("signal"));
  const json killed = run_document(argv, {{"exited", true}, {"signal", 9}});
  CHECK(killed["exit_status"] == 137);
  CHECK(killed["signal"] == 9);
  const json odd = run_document(argv, {{"exitcode", "x"}, {"out-data", "!!"}, {"signal", {}}});
  CHECK(odd["exit_status"] == -1);
  CHECK(odd["stdout"] == "");
}

TEST_CASE("run: commands that cannot be started") {
  const std::vector<std::string> argv = {"nosuch"};
  const std::string head =
      "Guest agent command failed, error was 'Failed to execute child process ";
  CHECK((*start_failure(argv, head + "(No such file or directory)'"))["exit_status"] == 127);
  CHECK((*start_failure(argv, head + "(Permission denied)'"))["exit_status"] == 126);
  CHECK_FALSE(start_failure(argv, head + "(Cannot allocate memory)'"));
  CHECK_FALSE(start_failure(argv, "No such file or directory"));
}
