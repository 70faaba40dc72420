// SPDX-License-Identifier: MIT
#include "blk/fault/journal.hpp"

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

constexpr size_t k_events_at_once = 4096;
constexpr uint64_t k_for_ever_ns = 365ULL * 24 * 3600 * k_ns_per_s;

struct JournalOptions {
  std::string disk, since;
  bool stable = false, follow = false;
};

// One run of the verb: what has been printed so far.
class Reader {
 public:
  Reader(cli::Context& context, const JournalOptions& options, uint64_t since)
      : context_(context), options_(options), since_(since) {}

  // What is new in the files that `where` names.
  Result<> print(const json& where) {
    where_ = where;
    while (true) {
      TRY_ASSIGN(json events, blk::read_journal(where, since_, k_events_at_once));
      if (events.empty()) return {};
      for (json& event : events) {
        since_ = get_u64(event, "n");
        ++count_;
        if (options_.stable) event.erase("t_ns");
        TRY(print_event(event));
      }
    }
  }

  // Answered by the disk when there is something new, until it is closed. The summary of a stream
  // that was cut off is missing.
  Result<> follow(serve::DiskClient& client) {
    while (true) {
      auto where = client.call({{"op", "fault.wait"}, {"since", since_}});
      if (!where && where.error().code == Code::timeout) return fail(where.error());
      if (!where) return fail(Code::server_dead, "the disk's server has died");
      if (get_bool(*where, "ended")) return {};
      TRY(print(*where));
    }
  }

  Result<> summary(const Object& disk) {
    if (context_.text_output() || context_.selects_field()) return {};
    json summary = {{"events", count_}, {"last", where_["last"]}, {"dropped", where_["dropped"]}};
    if (const json* error = find(where_, "write_error")) summary["error"] = *error;
    return context_.emit(
        {{"v", cli::k_document_version}, {"summary", summary}, {"disk", disk_reference(disk)}});
  }

 private:
  // A table is made when all is there; who follows wants each line now.
  Result<> print_event(const json& event) {
    if (!options_.follow || !context_.text_output())
      return context_.emit({{"v", cli::k_document_version}, {"event", event}});
    const json* wait = find(event, "delay_ms");
    return context_.emit_raw(
        fmt::format("{:>8} {:<12} {:<16} {:<8} {}+{} {}\n", since_, get_string(event, "rule"),
                    get_string(event, "kind"), get_string(event, "op"),
                    get_u64(event, "offset_bytes"), get_u64(event, "length_bytes"),
                    wait ? to_line(*wait) + " ms" : get_string(event, "delivered")));
  }

  cli::Context& context_;
  const JournalOptions& options_;
  uint64_t since_, count_ = 0;
  json where_;
};

Result<int> journal(cli::Context& context, const JournalOptions& options) {
  uint64_t since = 0;
  if (!options.since.empty()) {
    TRY_ASSIGN(since, parse_count("--since", options.since));
  }
  TRY_ASSIGN(Session session,
             open_session(context, options.disk,
                          options.follow ? k_for_ever_ns : target::k_default_timeout_ns));
  TRY_ASSIGN(const json where, session.client.call({{"op", "fault.journal"}}));
  Reader reader(context, options, since);
  TRY(reader.print(where));
  if (options.follow) TRY(reader.follow(session.client));
  TRY(reader.summary(session.at.disk));
  return 0;
}

}  // namespace

void build_journal(cli::Verb& verb) {
  auto options = std::make_shared<JournalOptions>();
  add_disk_flag(verb, options->disk);
  verb.option("--since", options->since, "N", "Only events after number N");
  verb.flag("--stable", options->stable, "Without times: equal for equal faults");
  verb.flag("--follow", options->follow, "Go on printing until the disk is closed");
  verb.run([options](cli::Context& context) { return journal(context, *options); });
}

}  // namespace pv::faultcmd
