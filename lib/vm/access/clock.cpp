// SPDX-License-Identifier: MIT
#include "vm/access/clock.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/client.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_decimals = 9;

struct Reading {
  int64_t guest_ns = 0;
  uint64_t host_ns = 0;  // monotonic, half-way through the question
};

Result<json> ask(const Object& vm, std::string_view command, json arguments,
                 const Deadline& deadline) {
  auto answer = call_agent(vm, command, std::move(arguments), deadline);
  if (answer || answer.error().code != Code::agent) return answer;
  // qemu-ga's words for a command that it does not have, or was told not to run.
  const std::string& words = answer.error().message;
  for (const char* sign : {"not been found", "has been disabled", "not found", "unsupported"})
    if (words.find(sign) != std::string::npos)
      return fail(Code::unsupported, fmt::format("the guest's agent cannot do it: {}", words));
  return answer;
}

Result<Reading> read_time(const Object& vm, const Deadline& deadline) {
  const uint64_t before_ns = system_clock().now_ns();
  TRY_ASSIGN(const json time, ask(vm, "guest-get-time", json(), deadline));
  const uint64_t after_ns = system_clock().now_ns();
  if (!time.is_number_integer())
    return fail(Code::agent, "guest agent: guest-get-time gave no time");
  return Reading{time.get<int64_t>(), before_ns + (after_ns - before_ns) / 2};
}

}  // namespace

Result<int64_t> parse_seconds(std::string_view text, std::string_view what) {
  const auto bad = [&] {
    return fail(Code::usage, fmt::format("{}: '{}' is not a number of seconds such as 1.5 or "
                                         "-0.000000001",
                                         what, printable(text)));
  };
  std::string_view rest = text;
  const bool negative = !rest.empty() && rest[0] == '-';
  if (negative || (!rest.empty() && rest[0] == '+')) rest.remove_prefix(1);
  const size_t point = rest.find('.');
  const std::string whole(rest.substr(0, point));
  std::string part = point == std::string_view::npos ? "0" : std::string(rest.substr(point + 1));
  if (whole.empty() || part.empty() || part.size() > k_decimals) return bad();
  if ((whole + part).find_first_not_of("0123456789") != std::string::npos) return bad();
  part.resize(k_decimals, '0');
  const std::string digits = whole + part;
  int64_t ns = 0;
  for (const char digit : digits)
    if (__builtin_mul_overflow(ns, 10, &ns) || __builtin_add_overflow(ns, digit - '0', &ns))
      return fail(Code::usage, fmt::format("{}: '{}' is out of range: 64 bits of nanoseconds are "
                                           "9223372036 seconds",
                                           what, text));
  return negative ? -ns : ns;
}

Result<json> read_clock(const Object& vm, const Deadline& deadline) {
  TRY_ASSIGN(const Reading reading, read_time(vm, deadline));
  return json({{"t_ns", std::to_string(reading.guest_ns)},
               {"host_t_ns", std::to_string(system_clock().wall_ns())}});
}

Result<json> set_clock(const Object& vm, int64_t t_ns, const Deadline& deadline) {
  if (t_ns < 0) return fail(Code::invalid, "clock: a time before 1970 cannot be set");
  if (static_cast<uint64_t>(t_ns) / k_ns_per_s >= k_agents_end_s)
    return fail(Code::invalid, "clock: a time after 2069 cannot be set, says the guest's agent");
  // It sets the system clock first and then the hardware's with hwclock(8), which may not be there.
  auto set = ask(vm, "guest-set-time", {{"time", t_ns}}, deadline);
  if (!set && set.error().message.find("hwclock") == std::string::npos) return set;
  TRY_ASSIGN(json clock, read_clock(vm, deadline));
  clock["set_ns"] = std::to_string(t_ns);
  return clock;
}

Result<json> advance_clock(const Object& vm, int64_t delta_ns, const Deadline& deadline) {
  TRY_ASSIGN(const Reading reading, read_time(vm, deadline));
  const auto spent_ns = static_cast<int64_t>(system_clock().now_ns() - reading.host_ns);
  int64_t t_ns = 0;
  if (__builtin_add_overflow(reading.guest_ns + spent_ns, delta_ns, &t_ns))
    return fail(Code::invalid, "clock: that time is beyond what a clock can show");
  return set_clock(vm, t_ns, deadline);
}

}  // namespace pv::vm
