// SPDX-License-Identifier: MIT
// A QMP conversation with QEMU (docs/interop/qmp-spec.txt in QEMU): negotiates, matches replies to
// commands by id, hands events on. Owned by the supervisor, on its loop's thread.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/line_channel.hpp"
#include "base/result.hpp"

namespace pv::vm {

// What one line from QEMU says. `body` is the greeting, the return value, the error object or the
// whole event; `id` is the one we gave the command, 0 when there is none.
struct QmpMessage {
  enum class Kind { garbage, greeting, reply, error, event };
  Kind kind = Kind::garbage;
  uint64_t id = 0;
  json body;
};
QmpMessage parse_qmp(std::string_view line);

using JsonReply = std::function<void(Result<json>)>;

// For commands that QEMU answers by itself, however loaded the host is.
constexpr uint64_t k_qmp_ns = 30 * k_ns_per_s;

class Qmp {
 public:
  struct Handler {
    std::function<void()> ready;             // capabilities are negotiated
    std::function<void(const json&)> event;  // {"event":…,"data":…,"timestamp":…}
    std::function<void(const char* why)> closed;
  };

  Qmp(Loop& loop, Fd fd, Handler handler);
  ~Qmp();

  // Runs a command. `reply` is called exactly once: with the value of "return", Code::qmp with
  // QEMU's own words (and key "class"), Code::timeout, or Code::guest_died when QEMU is gone.
  void execute(const std::string& command, json arguments, uint64_t timeout_ns, JsonReply reply);

  // Answers every command in flight with `error`.
  void fail_all(const Error& error);

 private:
  struct Waiting {
    std::string command;
    TimerId timer;
    JsonReply reply;
  };
  void on_line(const std::string& line);
  void answer(uint64_t id, Result<json> result);

  Loop& loop_;
  Handler handler_;
  std::map<uint64_t, Waiting> waiting_;
  uint64_t last_id_ = 0;
  LineChannel channel_;
};

}  // namespace pv::vm
