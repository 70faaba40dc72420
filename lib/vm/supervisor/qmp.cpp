// SPDX-License-Identifier: MIT
#include "vm/supervisor/qmp.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_qmp_max_waiting = 1024;

}  // namespace

QmpMessage parse_qmp(std::string_view line) {
  QmpMessage message;
  auto value = parse_json(line);
  if (!value || !value->is_object()) return message;
  message.id = get_u64(*value, "id");
  if (value->contains("QMP")) {
    message.kind = QmpMessage::Kind::greeting;
    message.body = (*value)["QMP"];
  } else if (value->contains("return")) {
    message.kind = QmpMessage::Kind::reply;
    message.body = (*value)["return"];
  } else if (const json* error = find(*value, "error"); error && error->is_object()) {
    message.kind = QmpMessage::Kind::error;
    message.body = *error;
  } else if (const json* event = find(*value, "event"); event && event->is_string()) {
    message.kind = QmpMessage::Kind::event;
    message.body = std::move(*value);
  }
  return message;
}

Qmp::Qmp(Loop& loop, Fd fd, Handler handler)
    : loop_(loop),
      handler_(std::move(handler)),
      channel_(loop, std::move(fd),
               {[this](std::string line) { on_line(line); },
                [this](const char* why) {
                  if (handler_.closed) handler_.closed(why);
                }}) {}

Qmp::~Qmp() {
  for (const auto& [id, waiting] : waiting_) loop_.cancel(waiting.timer);
}

void Qmp::execute(const std::string& command, json arguments, uint64_t timeout_ns,
                  JsonReply reply) {
  if (waiting_.size() >= k_qmp_max_waiting)
    return reply(fail(Code::qmp, "too many QMP commands are waiting for QEMU"));
  const uint64_t id = ++last_id_;
  json request = {{"execute", command}, {"id", id}};
  if (!arguments.is_null()) request["arguments"] = std::move(arguments);
  const TimerId timer = loop_.after(timeout_ns, [this, id, command] {
    answer(id, fail(Code::timeout, fmt::format("QEMU has not answered {} in time", command)));
  });
  waiting_[id] = {command, timer, std::move(reply)};
  if (!channel_.send(to_line(request) + "\n"))
    answer(id, fail(Code::guest_died, fmt::format("QEMU is gone; {} was not sent", command)));
}

void Qmp::answer(uint64_t id, Result<json> result) {
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return;  // late: the caller was told "timeout" already
  loop_.cancel(found->second.timer);
  const JsonReply reply = std::move(found->second.reply);
  waiting_.erase(found);
  reply(std::move(result));
}

void Qmp::fail_all(const Error& error) {
  while (!waiting_.empty()) answer(waiting_.begin()->first, fail(error));
}

void Qmp::on_line(const std::string& line) {
  QmpMessage message = parse_qmp(line);
  switch (message.kind) {
    case QmpMessage::Kind::greeting:
      execute("qmp_capabilities", nullptr, 10 * k_ns_per_s, [this](Result<json> result) {
        if (result && handler_.ready) handler_.ready();
      });
      break;
    case QmpMessage::Kind::reply:
      answer(message.id, std::move(message.body));
      break;
    case QmpMessage::Kind::error: {
      const auto found = waiting_.find(message.id);
      if (found == waiting_.end()) break;
      const Error error(Code::qmp, fmt::format("QEMU refuses {}: {}", found->second.command,
                                               get_string(message.body, "desc")));
      answer(message.id, fail(error.with("class", get_string(message.body, "class"))));
      break;
    }
    case QmpMessage::Kind::event:
      if (handler_.event) handler_.event(message.body);
      break;
    case QmpMessage::Kind::garbage:
      break;  // QEMU prints nothing else; skipping it is the safe reading
  }
}

}  // namespace pv::vm
