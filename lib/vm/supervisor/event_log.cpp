// SPDX-License-Identifier: MIT
#include "vm/supervisor/event_log.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_max_bytes = 64 << 20;
constexpr size_t k_last_line = 64 << 10;
constexpr size_t k_max_panic = 200;
constexpr size_t k_max_line = 1 << 20;

struct Name {
  const char* qmp;
  const char* ours;  // "" for one that is told elsewhere
};
constexpr Name k_names[] = {
    {"STOP", "paused"},
    {"RESUME", "resumed"},
    {"POWERDOWN", "power_button"},
    {"RESET", ""},  // SeaBIOS makes several of one: the supervisor counts
    {"SHUTDOWN", "shutdown"},
    {"GUEST_PANICKED", "guest_panic"},
    {"BLOCK_IO_ERROR", "disk_error"},
    {"DEVICE_DELETED", ""},
    {"DEVICE_UNPLUG_GUEST_ERROR", ""},
    {"JOB_STATUS_CHANGE", ""},
    {"MIGRATION", ""},
    {"MIGRATION_PASS", ""},
    {"VSERPORT_CHANGE", ""},
};

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace

std::optional<json> translate_event(const json& qmp_event) {
  const std::string name = get_string(qmp_event, "event");
  const json* given = find(qmp_event, "data");
  json data = given ? *given : json();
  const bool agent = name == "VSERPORT_CHANGE" && given && get_string(*given, "id") == "agent";
  if (agent) return json{{"event", get_bool(*given, "open") ? "agent_up" : "agent_down"}};
  std::string ours = lower(name);
  for (const Name& row : k_names)
    if (name == row.qmp) ours = row.ours;
  if (ours.empty()) return std::nullopt;
  if (given && name == "SHUTDOWN")
    data = {{"by", get_bool(*given, "guest") ? "guest" : "host"},
            {"reason", get_string(*given, "reason")}};
  json event = {{"event", ours}};
  if (!data.is_null() && !data.empty()) event["data"] = std::move(data);
  return event;
}

std::string panic_in(std::string_view console) {
  constexpr std::string_view k_words = "Kernel panic - not syncing";
  const size_t at = console.rfind(k_words);
  if (at == std::string_view::npos) return "";
  const std::string_view line = console.substr(at, k_max_panic);
  return std::string(line.substr(0, line.find_first_of("\r\n")));
}

Result<> EventLog::open(const Object& vm) {
  const std::string path = vm.path(k_events_log);
  for (const std::string& line : split(tail_of_file(path, k_last_line), '\n'))
    if (auto event = parse_json(line); event && event->is_object())
      last_ = get_u64(*event, "seq", last_);
  file_.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file_) return fail_errno("cannot open " + path, errno);
  bytes_ = static_cast<uint64_t>(std::max<off_t>(lseek(file_.get(), 0, SEEK_END), 0));
  full_ = bytes_ >= k_max_bytes;
  return {};
}

void EventLog::add(std::string_view event, json data) {
  if (full_) return;
  const auto write = [this](std::string_view name, const json& about) {
    json line = {
        {"seq", ++last_}, {"t_ns", std::to_string(system_clock().wall_ns())}, {"event", name}};
    if (!about.is_null()) line["data"] = about;
    const std::string text = to_line(line) + "\n";
    bytes_ += text.size();
    // A full disk loses events, never the VM.
    static_cast<void>(write_all(file_.get(), text));
  };
  write(event, data);
  full_ = bytes_ >= k_max_bytes;
  if (full_) write("log_full", nullptr);
}

EventReader::EventReader(const Object& vm) : path_(vm.path(k_events_log)) {}

Result<> EventReader::read(const Take& take) {
  if (!file_) file_.reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_) return errno == ENOENT ? Result<>() : fail_errno("cannot open " + path_, errno);
  char chunk[1 << 16];
  while (true) {
    const ssize_t n = ::read(file_.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read " + path_, errno);
    if (n == 0) return {};
    part_.append(chunk, static_cast<size_t>(n));
    size_t from = 0;
    for (size_t end; (end = part_.find('\n', from)) != std::string::npos; from = end + 1) {
      auto event = parse_json(std::string_view(part_).substr(from, end - from));
      if (!event || !event->is_object()) continue;  // cut off by a full disk
      last_ = get_u64(*event, "seq");
      TRY(take(std::move(*event)));
    }
    part_.erase(0, from);
    if (part_.size() > k_max_line) part_.clear();
  }
}

}  // namespace pv::vm
