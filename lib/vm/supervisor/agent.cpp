// SPDX-License-Identifier: MIT
#include "vm/supervisor/agent.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_queue = 1024;
// A sync is sent again after this long, then after twice as long, and so on. A slow guest answers
// each, and first complains of the 0xFF before it: only after the last answer does nothing come
// that could be taken for a command's.
constexpr uint64_t k_sync_again_ns = 500 * k_ns_per_ms;
constexpr uint64_t k_longest_sync_ns = 8 * k_ns_per_s;
constexpr uint64_t k_agent_lost_ns = 3 * k_ns_per_s;
constexpr uint32_t k_max_sync_id = 0x7fffffff;

}  // namespace

AgentMessage parse_agent(std::string_view line) {
  AgentMessage message;
  const size_t mark = line.rfind('\xff');
  const bool marked = mark != std::string_view::npos;
  if (marked) line.remove_prefix(mark + 1);
  auto value = parse_json(line);
  if (!value || !value->is_object()) return message;
  if (value->contains("return")) {
    message.body = (*value)["return"];
    message.kind = marked ? AgentMessage::Kind::sync : AgentMessage::Kind::reply;
    if (!marked) return message;
    if (!message.body.is_number_unsigned())
      message.kind = AgentMessage::Kind::garbage;
    else
      message.sync_id = message.body.get<uint64_t>();
  } else if (const json* error = find(*value, "error"); error && error->is_object() && !marked) {
    message.kind = AgentMessage::Kind::error;
    message.body = *error;
  }
  return message;
}

Agent::~Agent() {
  loop_.cancel(sync_timer_);
  for (const Command& command : queue_) loop_.cancel(command.timer);
  for (const auto& [id, command] : lost_) loop_.cancel(command.timer);
}

void Agent::connect(Fd fd) {
  channel_ = std::make_unique<LineChannel>(
      loop_, std::move(fd),
      LineChannel::Handler{[this](std::string line) { on_line(line); },
                           [this](const char*) { on_closed(); }});
}

void Agent::port_changed(bool open) {
  state_ = State::closed;
  loop_.cancel(sync_timer_);
  lose_in_flight();  // an agent that has just been started knows nothing of it
  if (open && std::exchange(resumes_, false))
    state_ = State::resting;
  else if (open)
    start_sync();
}

// A sync costs a guest under TCG more than all else of a restore does.
void Agent::resume() {
  resumes_ = true;
}

// A port that closes is also the first sign of a guest that powers off: its end, which follows at
// once, is the better answer.
void Agent::lose_in_flight() {
  if (!in_flight_) return;
  in_flight_ = false;
  Command command = std::move(queue_.front());
  queue_.pop_front();
  loop_.cancel(command.timer);
  const uint64_t id = command.id;
  command.timer = loop_.after(k_agent_lost_ns, [this, id] {
    auto node = lost_.extract(id);
    const Error error(Code::agent,
                      fmt::format("the guest agent went away during {}", node.mapped().name));
    finish(std::move(node.mapped()), fail(error));
  });
  lost_.emplace(id, std::move(command));
}

void Agent::start_sync() {
  if (!channel_ || !channel_->is_open()) return;
  state_ = State::syncing;
  sync_id_ = static_cast<uint32_t>(fresh_seed());
  sync_again_ns_ = k_sync_again_ns;
  send_sync();
}

void Agent::send_sync() {
  loop_.cancel(sync_timer_);
  sync_id_ = (sync_id_ + 1) & k_max_sync_id;
  const json request = {{"execute", "guest-sync-delimited"}, {"arguments", {{"id", sync_id_}}}};
  // The leading 0xFF makes qemu-ga drop what it has of a half-sent command.
  channel_->send("\xff" + to_line(request) + "\n");
  sync_timer_ = loop_.after(sync_again_ns_, [this] {
    sync_again_ns_ = std::min(2 * sync_again_ns_, k_longest_sync_ns);
    if (state_ == State::syncing && channel_ && channel_->is_open()) send_sync();
  });
}

void Agent::call(const std::string& command, json arguments, uint64_t timeout_ns, JsonReply reply) {
  if (queue_.size() >= k_max_queue)
    return reply(fail(Code::agent, "too many commands are waiting for the guest agent"));
  if (!why_absent_.empty() && last_answer_ns_ == 0) return reply(fail(Code::no_agent, why_absent_));
  json request = {{"execute", command}};
  if (!arguments.is_null()) request["arguments"] = std::move(arguments);
  const uint64_t id = ++last_id_;
  const TimerId timer = loop_.after(timeout_ns, [this, id] { expired(id); });
  queue_.push_back({id, command, to_line(request) + "\n", timer, std::move(reply)});
  if (state_ == State::resting) return start_sync();
  pump();
}

void Agent::pump() {
  if (state_ != State::ready || in_flight_ || queue_.empty()) return;
  in_flight_ = true;
  std::string line = std::move(queue_.front().line);
  channel_->send(line);  // a failure shows as on_closed()
}

void Agent::finish(Command command, Result<json> result) {
  loop_.cancel(command.timer);
  command.reply(std::move(result));
}

void Agent::expired(uint64_t id) {
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    if (it->id != id) continue;
    const bool was_in_flight = in_flight_ && it == queue_.begin();
    const bool silent = !is_ready();
    Command command = std::move(*it);
    queue_.erase(it);
    if (was_in_flight) {
      in_flight_ = false;
      start_sync();  // its answer may still come and must not be taken for the next one's
    }
    const std::string what = command.name;
    if (silent)
      return finish(std::move(command),
                    fail(Code::no_agent, "the guest agent does not answer (is it running?)"));
    return finish(
        std::move(command),
        fail(Code::timeout, fmt::format("the guest agent has not answered {} in time", what)));
  }
}

void Agent::on_line(const std::string& line) {
  AgentMessage message = parse_agent(line);
  if (message.kind != AgentMessage::Kind::garbage) last_answer_ns_ = system_clock().now_ns();
  if (message.kind == AgentMessage::Kind::sync) {
    if (state_ != State::syncing || message.sync_id != sync_id_) return;
    state_ = State::ready;
    loop_.cancel(sync_timer_);
    if (ready_) ready_();
    return pump();
  }
  if (message.kind == AgentMessage::Kind::garbage || state_ != State::ready || !in_flight_) return;
  in_flight_ = false;
  Command command = std::move(queue_.front());
  queue_.pop_front();
  pump();  // before the reply: the agent works while we think
  if (message.kind == AgentMessage::Kind::reply)
    return finish(std::move(command), std::move(message.body));
  const Error error(Code::agent, fmt::format("guest agent: {}", get_string(message.body, "desc")));
  finish(std::move(command), fail(error));
}

// Only QEMU's end closes the host's side; its owner then calls fail_all() with the reason.
void Agent::on_closed() {
  state_ = State::closed;
  loop_.cancel(sync_timer_);
}

void Agent::fail_all(const Error& error) {
  in_flight_ = false;
  std::deque<Command> all;
  all.swap(queue_);
  for (auto& [id, command] : std::exchange(lost_, {})) all.push_back(std::move(command));
  for (Command& command : all) finish(std::move(command), fail(error));
}

}  // namespace pv::vm
