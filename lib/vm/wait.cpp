// SPDX-License-Identifier: MIT
#include "vm/wait.hpp"

#include <algorithm>
#include <fcntl.h>
#include <regex.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/dir_watch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/supervisor/event_log.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// A killed supervisor changes no file: its absence is looked for this often.
constexpr uint64_t k_wait_look_ns = 200 * k_ns_per_ms;
constexpr size_t k_max_line = 64 << 10;

class Regex {
 public:
  ~Regex() {
    if (good_) regfree(&regex_);
  }
  Result<> compile(const std::string& text) {
    const int error = regcomp(&regex_, text.c_str(), REG_EXTENDED | REG_NOSUB);
    good_ = error == 0;
    if (good_) return {};
    char words[200];
    regerror(error, &regex_, words, sizeof words);
    return fail(Code::usage, fmt::format("--console: '{}': {}", printable(text), words));
  }
  bool matches(const std::string& line) const {
    return regexec(&regex_, line.c_str(), 0, nullptr, 0) == 0;
  }

 private:
  regex_t regex_{};
  bool good_ = false;
};

// The console's lines since the last boot, the unfinished one included: a prompt has no newline.
class ConsoleLines {
 public:
  explicit ConsoleLines(const Object& vm) : path_(vm.path(k_console_log)) {}
  void begin_at(uint64_t offset) {
    offset_ = offset;
    line_.clear();
  }
  std::optional<std::string> find(const Regex& regex) {
    const Fd log(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    char chunk[1 << 16];
    ssize_t n = 0;
    while (log && (n = pread(log.get(), chunk, sizeof chunk, static_cast<off_t>(offset_))) > 0) {
      offset_ += static_cast<uint64_t>(n);
      for (const char c : std::string_view(chunk, static_cast<size_t>(n))) {
        if (c != '\n' && line_.size() < k_max_line) {
          if (c != '\r' && c != '\0') line_ += c;
          continue;
        }
        if (regex.matches(line_)) return line_;
        line_.clear();
      }
    }
    if (!line_.empty() && regex.matches(line_)) return line_;
    return std::nullopt;
  }

 private:
  std::string path_;
  uint64_t offset_ = 0;
  std::string line_;
};

class Waiter {
 public:
  Waiter(const Object& vm, const Condition& condition)
      : vm_(vm), condition_(condition), log_(vm), lines_(vm) {}

  Result<> prepare() {
    if (!condition_.console.empty()) TRY(regex_.compile(condition_.console));
    TRY(read_events());
    since_ = condition_.since.value_or(log_.last());
    if (!condition_.since) found_ = nullptr;
    return {};
  }

  // Nullopt: not yet.
  Result<std::optional<Waited>> look() {
    const auto state = vm_.load();
    if (!state) return gone();
    const std::string now = actual_state(vm_, *state);
    if (!condition_.states.empty()) {
      if (wants(now)) return Waited{true, false, nullptr};
      if (now == "dead" || (only_created() && now != "created")) return Waited{};
      return std::nullopt;
    }
    TRY(read_events());
    if (!condition_.console.empty())
      if (const auto line = lines_.find(regex_)) set_text(found_, "line", *line);
    if (!found_.is_null()) return Waited{true, false, found_};
    if (now == "dead" || now == "shutdown") return Waited{};
    return std::nullopt;
  }

 private:
  bool wants(std::string_view state) const {
    return std::find(condition_.states.begin(), condition_.states.end(), state) !=
           condition_.states.end();
  }

  // Who has been booted never is again.
  bool only_created() const {
    return condition_.states.size() == 1 && condition_.states.front() == "created";
  }

  Result<std::optional<Waited>> gone() const {
    if (wants("shutdown")) return Waited{true, true, nullptr};
    return fail(Code::no_such_vm, fmt::format("VM '{}' was closed meanwhile", vm_.name));
  }

  Result<> read_events() {
    return log_.read([this](json event) -> Result<> {
      const std::string name = get_string(event, "event");
      if (name == "boot") lines_.begin_at(get_u64(event.value("data", json()), "console_bytes"));
      if (name == condition_.event && found_.is_null() &&
          get_u64(event, "seq") > since_.value_or(condition_.since.value_or(0)))
        found_ = std::move(event);
      return {};
    });
  }

  const Object& vm_;
  const Condition& condition_;
  EventReader log_;
  ConsoleLines lines_;
  Regex regex_;
  std::optional<uint64_t> since_;
  json found_;
};

}  // namespace

Result<Waited> wait_for(const Object& vm, const Condition& condition, const Deadline& deadline) {
  auto watch = DirWatch::open(vm.dir);
  Waiter waiter(vm, condition);
  TRY(waiter.prepare());
  while (true) {
    TRY_ASSIGN(const std::optional<Waited> waited, waiter.look());
    if (waited) return *waited;
    if (deadline.passed()) break;
    const uint64_t ns = std::min(deadline.left_ns(), k_wait_look_ns);
    if (watch)
      watch->wait(ns);
    else
      sleep_ns(ns);  // no more watches to be had (fs.inotify.max_user_instances)
  }
  return fail(Code::timeout, fmt::format("VM '{}': what was waited for has not come", vm.name));
}

}  // namespace pv::vm
