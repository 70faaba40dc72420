// SPDX-License-Identifier: MIT
#include "blk/fault/journal.hpp"

#include <iterator>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::blk {
namespace {

std::string status_name(int error) {
  return error == 0 ? "OK" : errno_name(error);
}

std::string delivered_name(const JournalEntry& e) {
  if (e.wire == WireFault::hang_up) return "DISCONNECTED";
  if (e.wire == WireFault::violate) return "VIOLATION";
  return status_name(e.delivered);
}

// By hand: a hundred thousand of them a second must not slow the disk down. Names hold nothing that
// JSON would escape.
void format_event(std::string& out, uint64_t number, const JournalEntry& e) {
  auto to = std::back_inserter(out);
  fmt::format_to(to,
                 R"({{"n":{},"t_ns":{},"rule":"{}","kind":"{}","match":{},"op":"{}","front":"{}",)"
                 R"("connection":{},"offset_bytes":{},"length_bytes":{})",
                 number, e.t_ns, e.rule, e.kind, e.match, e.connects ? "connect" : op_name(e.op),
                 front_name(e.front), e.connection, e.offset, e.length);
  if (e.waits)
    fmt::format_to(to, R"(,"delay_ms":{})", static_cast<double>(e.delay_ns) / 1e6);
  else
    fmt::format_to(to, R"(,"phase":"{}","io_done":{},"requested":"{}","delivered":"{}")",
                   phase_name(e.phase), e.phase == Phase::after_io, status_name(e.requested),
                   delivered_name(e));
  if (!e.note.empty()) fmt::format_to(to, ",{}", e.note);
  out += '}';
}

}  // namespace

uint64_t Journal::add(const JournalEntry& entry) {
  return add_line([&](std::string& out, uint64_t number) { format_event(out, number, entry); });
}

}  // namespace pv::blk
