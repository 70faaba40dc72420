// SPDX-License-Identifier: MIT
// If this fails, what runs commands in the built-in guest can be taken at more than its word, or a
// command that it was given is never answered.
#include <sys/socket.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "vm/supervisor/runner.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

// The supervisor's side, and the other end of its port.
struct RunnerRig {
  std::unique_ptr<Loop> loop = *Loop::create();
  Fd theirs;
  Runner runner{*loop};
  std::vector<std::string> heard;  // what was called, in order

  RunnerRig() {
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    runner.connect(Fd(fds[0]));
    theirs.reset(fds[1]);
  }
  void say(const std::string& text) {
    REQUIRE(send(theirs.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(text.size()));
    spin();
  }
  void spin() {
    for (int i = 0; i < 4; ++i) REQUIRE(loop->run_once(1));
  }
  std::string received() {
    spin();
    char bytes[4096];
    const ssize_t n = recv(theirs.get(), bytes, sizeof bytes, 0);
    return n > 0 ? std::string(bytes, static_cast<size_t>(n)) : std::string();
  }
  void start(Runner::Id id, bool captures = true, uint64_t timeout_ns = 60 * k_ns_per_s) {
    RunnerCommand command;
    command.argv = {"echo", "a b"};
    command.captures = captures;
    const auto note = [this](const char* what) {
      return [this, what](Result<json> result) {
        heard.push_back(what + std::string(" ") +
                        (result ? result->dump() : result.error().message));
      };
    };
    runner.start(id, command, timeout_ns, note("started"), note("ended"));
  }
};

using Heard = std::vector<std::string>;

}  // namespace

TEST_CASE("runner: ready from its hello until its port closes") {
  RunnerRig rig;
  CHECK_FALSE(rig.runner.is_ready());
  rig.say("half a line of the last boot\nhello abc\n");
  CHECK(rig.runner.is_ready());
  rig.runner.port_changed(false);
  CHECK_FALSE(rig.runner.is_ready());
}

TEST_CASE("runner: a command goes out in one line, its end comes back as the agent tells it") {
  RunnerRig rig;
  rig.say("hello abc\n");
  rig.start(7);
  CHECK(rig.received() == "run abc 7 1 ZWNobwBhIGIA - -\n");
  rig.say("start 7 42\nout 7 aGEK\nout 7 aGEK\nerr 7 /w==\nend 7 768 0 1\n");
  REQUIRE(rig.heard.size() == 2);
  CHECK(rig.heard[0] == R"(started {"pid":42})");
  const auto status = parse_json(rig.heard[1].substr(6));
  REQUIRE(status);
  CHECK(*status == json({{"exited", true},
                         {"exitcode", 3},
                         {"out-data", base64_encode("ha\nha\n")},
                         {"err-data", "/w=="},
                         {"err-truncated", true}}));
  rig.start(8, false);
  rig.say("start 8 43\nend 8 9 0 0\n");
  CHECK(rig.heard.back() == R"(ended {"exited":true,"signal":9})");
}

TEST_CASE("runner: what cannot be started, in the agent's words") {
  RunnerRig rig;
  rig.say("hello abc\n");
  rig.start(1);
  rig.say("fail 1 2\nend 1 0 0 0\n");
  CHECK(rig.heard == Heard{"started guest agent: Failed to execute child process “echo” (No such "
                           "file or directory)"});
}

TEST_CASE("runner: silence, a closed port and another runner end what was asked of it") {
  RunnerRig rig;
  rig.say("hello abc\n");
  rig.start(1, true, k_ns_per_ms);
  rig.spin();
  CHECK(rig.heard == Heard{"started the guest agent does not answer (is it running?)"});
  rig.start(2);
  rig.start(3);
  rig.start(4);
  rig.say("start 2 9\n");
  rig.runner.forget(4);
  rig.say("hello def\n");
  const std::string lost = "what runs commands in the guest has ended, and lost this one";
  CHECK(rig.heard ==
        Heard{rig.heard[0], R"(started {"pid":9})", "ended " + lost, "started " + lost});
}

TEST_CASE("runner: random lines are never more than garbage") {
  RunnerRig rig;
  rig.say("hello abc\n");
  rig.start(5, true, 60 * k_ns_per_s);
  rig.received();
  Rng rng(11);
  const Heard words = {"start", "end", "out", "err", "fail", "5", "x", "-1", "99999999999999999999",
                       "====",  "",    "\xff"};
  for (int round = 0; round < 300; ++round) {
    std::string line;
    for (uint64_t n = rng.below(6); n > 0; --n) line += words[rng.below(words.size())] + " ";
    rig.say(line + "\n");
    if (rig.heard.size() > 1) break;
  }
  CHECK(rig.heard.size() <= 2);
}
