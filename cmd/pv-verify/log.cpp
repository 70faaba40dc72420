// SPDX-License-Identifier: MIT
// log: what is in a write log, request by request.
#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "verbs.hpp"
#include "verify/log/requests.hpp"

namespace pv::verifycmd {
namespace {

using blk::LogKind;
using verify::Logged;

struct LogOptions {
  std::string log;
  bool summary = false, stable = false;
};

struct Counts {
  uint64_t writes = 0, written = 0, zeroes = 0, zeroed = 0, discards = 0, discarded = 0;
  uint64_t flushes = 0, fua = 0, marks = 0, failed = 0, pending = 0;

  void add(const Logged& one) {
    const blk::LogEntry& entry = one.entry;
    if (one.fate == Logged::pending) ++pending;
    if (one.fate == Logged::failed) ++failed;
    if ((entry.flags & blk::k_log_fua) != 0) ++fua;
    const auto count = [&](uint64_t& requests, uint64_t& bytes) {
      ++requests;
      bytes += entry.length;
    };
    if (entry.kind == LogKind::write) count(writes, written);
    if (entry.kind == LogKind::zero) count(zeroes, zeroed);
    if (entry.kind == LogKind::discard) count(discards, discarded);
    if (entry.kind == LogKind::flush) ++flushes;
    if (entry.kind == LogKind::mark) ++marks;
  }
};

std::string status_text(const Logged& one) {
  if (one.fate == Logged::pending) return "PENDING";
  return one.fate == Logged::failed ? errno_name(one.error) : "OK";
}

json to_json(const Logged& one, bool stable) {
  const blk::LogEntry& entry = one.entry;
  json shown = {{"n", entry.n}, {"op", blk::log_kind_name(entry.kind)}};
  if (!stable) shown["submitted_ns"] = entry.t_ns;
  if (entry.kind == LogKind::mark) set_text(shown, "mark", one.mark);
  if (entry.kind == LogKind::resize) shown["size_bytes"] = entry.length;
  if (entry.kind == LogKind::session) {
    shown["began_ns"] = std::to_string(entry.length);
    shown["gap_before"] = (entry.flags & blk::k_log_gap) != 0;
  }
  if (entry.kind == LogKind::mark || entry.kind == LogKind::resize ||
      entry.kind == LogKind::session)
    return shown;
  if (entry.kind != LogKind::flush) {
    shown["offset_bytes"] = entry.offset;
    shown["length_bytes"] = entry.length;
    shown["fua"] = (entry.flags & blk::k_log_fua) != 0;
  }
  if (entry.kind == LogKind::zero) shown["no_unmap"] = (entry.flags & blk::k_log_no_unmap) != 0;
  if (entry.kind == LogKind::write) shown["xxh3"] = fmt::format("{:016x}", entry.hash);
  shown["status"] = status_text(one);
  if (one.fate == Logged::pending) return shown;
  shown["completed"] = one.done_order;
  if (!stable) shown["completed_ns"] = one.done_ns;
  return shown;
}

json summary(const blk::LogReader& log, const Counts& counts, const blk::LogEnd& end) {
  const blk::LogHead& head = log.head();
  json shown = {{"requests", log.last()},
                {"writes", counts.writes},
                {"written_bytes", counts.written},
                {"zeroes", counts.zeroes},
                {"zeroed_bytes", counts.zeroed},
                {"discards", counts.discards},
                {"discarded_bytes", counts.discarded},
                {"flushes", counts.flushes},
                {"fua", counts.fua},
                {"marks", counts.marks},
                {"failed", counts.failed},
                {"pending", counts.pending},
                {"used_bytes", end.used_bytes},
                {"gaps", end.gaps},
                {"sector_size", head.sector_size},
                {"size_bytes", head.size == 0 ? json(nullptr) : json(head.size)},
                {"began_ns", std::to_string(head.began_ns)}};
  add_log_end(shown, end);
  return shown;
}

std::string note_of(const Logged& one) {
  return (one.entry.flags & blk::k_log_gap) != 0 ? "gap before" : printable(one.mark);
}

Result<> print(cli::Context& context, const Logged& one, bool stable) {
  if (!context.text_output() || context.selects_field())
    return context.emit_line({{"v", cli::k_document_version}, {"entry", to_json(one, stable)}});
  const blk::LogEntry& entry = one.entry;
  const bool request = entry.kind == LogKind::write || entry.kind == LogKind::zero ||
                       entry.kind == LogKind::discard || entry.kind == LogKind::flush;
  return context.emit_raw(fmt::format("{:>8} {:<8} {:>16} {:>12} {:<4} {}\n", entry.n,
                                      blk::log_kind_name(entry.kind), entry.offset, entry.length,
                                      (entry.flags & blk::k_log_fua) != 0 ? "fua" : "",
                                      request ? status_text(one) : note_of(one)));
}

Result<int> act(cli::Context& context, const LogOptions& options) {
  TRY_ASSIGN(blk::LogReader reader, blk::LogReader::open(options.log));
  verify::LogRequests requests(std::move(reader));
  Counts counts;
  while (true) {
    TRY_ASSIGN(const std::optional<Logged> one, requests.next());
    if (!one) break;
    counts.add(*one);
    if (!options.summary) TRY(print(context, *one, options.stable));
  }
  TRY_ASSIGN(const blk::LogEnd end, requests.reader().end());
  const json line = {{"v", cli::k_document_version},
                     {"summary", summary(requests.reader(), counts, end)}};
  TRY(options.summary ? context.emit(line) : context.emit_line(line));
  return 0;
}

}  // namespace

void add_log_end(json& shown, const blk::LogEnd& end) {
  shown["state"] = blk::log_state_name(end.state);
  if (end.state == blk::LogHead::broken) shown["error"] = errno_name(static_cast<int>(end.error));
  shown["whole"] = end.whole;
  shown["unused_bytes"] = end.unused_bytes;
}

void build_log(cli::Verb& verb) {
  auto options = std::make_shared<LogOptions>();
  verb.positional("log", options->log, "The log")->required();
  verb.flag("--summary", options->summary, "Print the summary only");
  verb.flag("--stable", options->stable, "Without times: equal for equal requests");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
