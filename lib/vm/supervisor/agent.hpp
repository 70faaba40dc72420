// SPDX-License-Identifier: MIT
// The conversation with qemu-ga in the guest (docs/interop/qemu-ga-ref in QEMU). qemu-ga answers
// one command after the other without ids, so commands queue here and one is in flight at a time.
// After connecting, and whenever an answer did not come in time, the stream is put in step with
// guest-sync-delimited, whose answer is marked by a 0xFF byte that no other answer can hold.
// Everything that comes from the guest is untrusted. Owned by the supervisor, on its thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/json.hpp"
#include "base/line_channel.hpp"
#include "base/result.hpp"
#include "vm/supervisor/qmp.hpp"

namespace pv::vm {

// What one line from the agent says.
struct AgentMessage {
  enum class Kind { garbage, sync, reply, error };
  Kind kind = Kind::garbage;
  uint64_t sync_id = 0;
  json body;  // the return value, or the error object
};
AgentMessage parse_agent(std::string_view line);

class Agent {
 public:
  explicit Agent(Loop& loop) : loop_(loop) {}
  ~Agent();

  // The host side of the virtio-serial port is connected.
  void connect(Fd fd);
  // QEMU says that the guest has opened or closed the port. Opening starts the sync.
  void port_changed(bool open);
  // The guest goes on from a snapshot, with an agent that had answered before: it is trusted to be
  // there, and asked for a sync with the first command. Called before the port opens.
  void resume();
  // Called each time that the agent has answered a sync.
  void on_ready(std::function<void()> callback) { ready_ = std::move(callback); }
  // Until it has answered, commands fail at once with Code::no_agent and these words.
  void not_awaited(std::string why) { why_absent_ = std::move(why); }
  bool is_ready() const { return state_ == State::ready || state_ == State::resting; }
  // Nothing is asked of it.
  bool is_idle() const { return queue_.empty() && state_ != State::syncing; }
  // When it last answered anything, on the monotonic clock; 0 for never.
  uint64_t last_answer_ns() const { return last_answer_ns_; }

  // Queues a command. `reply` is called exactly once: with the value of "return", Code::agent with
  // the agent's words, Code::no_agent when nothing answers in the guest, Code::timeout.
  void call(const std::string& command, json arguments, uint64_t timeout_ns, JsonReply reply);
  // Answers everything that is queued or in flight with `error`.
  void fail_all(const Error& error);

 private:
  enum class State { closed, resting, syncing, ready };
  struct Command {
    uint64_t id;
    std::string name;
    std::string line;
    TimerId timer;
    JsonReply reply;
  };
  void start_sync();
  void lose_in_flight();
  void send_sync();
  void pump();
  void on_line(const std::string& line);
  void on_closed();
  void expired(uint64_t id);
  void finish(Command command, Result<json> result);

  Loop& loop_;
  std::unique_ptr<LineChannel> channel_;
  State state_ = State::closed;
  std::deque<Command> queue_;  // the first one is in flight when in_flight_
  bool in_flight_ = false;
  bool resumes_ = false;              // the next time that the port opens
  std::map<uint64_t, Command> lost_;  // their agent has gone away; told so a moment later
  uint64_t last_id_ = 0;
  uint64_t last_answer_ns_ = 0;
  uint64_t sync_id_ = 0;
  uint64_t sync_again_ns_ = 0;
  TimerId sync_timer_ = 0;
  std::function<void()> ready_;
  std::string why_absent_;
};

}  // namespace pv::vm
