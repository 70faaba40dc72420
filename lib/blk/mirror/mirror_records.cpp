// SPDX-License-Identifier: MIT
// What a mirror writes down of a difference. man/pv-verify.1 says what each key means.
#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/mirror/mirror.hpp"
#include "blk/mirror/records.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_mirror_records_excerpt = 256;       // bytes of each side
constexpr uint64_t k_excerpt_row = 16;                   // where an excerpt begins
constexpr uint64_t k_clock_slack_ns = 20 * k_ns_per_ms;  // by which a file's time may be late

}  // namespace

// The rules of a fault layer on one leg that have touched this request.
void Mirror::add_rules(json& record, const Flight& flight) const {
  for (const Side side : {Writes::test, Writes::reference}) {
    const std::string& rule = flight.legs[side].injected.rule;
    if (!rule.empty())
      record["rule"] = {{"leg", side == Writes::test ? "test" : "reference"}, {"id", rule}};
  }
}

Mirror::File Mirror::reference_file() const {
  const auto said = reference_->control({{"op", "base.identity"}});
  if (!said) return {};
  return {get_u64(*said, "device"), get_u64(*said, "inode"), get_u64(*said, "file_size"),
          get_u64(*said, "mtime_ns")};
}

// A reference that is a file knows when it was changed last: by somebody else, when that is after
// our own last change. One that was cut no longer has room for what it held. Told once, and true
// from then on.
bool Mirror::look_outside() {
  if (changed_outside_) return true;
  const File now = reference_file(), &before = reference_file_;
  if (now.inode == 0 || now.inode != before.inode || now.device != before.device) return false;
  const bool cut = before.bytes >= geometry_.size && now.bytes < geometry_.size;
  const bool later = changing_ == 0 && now.mtime_ns > changed_wall_ns_ + k_clock_slack_ns;
  if (!cut && !later) return false;
  changed_outside_ = true;
  watch_.note({{"kind", "changed_outside"},
               {"leg", "reference"},
               {"how", cut ? "cut" : "changed"},
               {"file_bytes", now.bytes},
               {"file_bytes_before", before.bytes}});
  return true;
}

json Mirror::shown(const Flight& flight) const {
  json request = shown_request(flight.number, *flight.parent, watch_.now_ns());
  if (scrub_.is_mine(*flight.parent)) request["scrub"] = true;
  return request;
}

// A finding for each mishap; the policy's question is asked with the last one.
void Mirror::record_mismatch(Flight& flight, const std::string& test, const std::string& reference,
                             const std::vector<ByteSpan>& spans) {
  const Request& request = *flight.parent;
  // Where nothing says which leg is wrong, it is the one that somebody else has changed.
  const bool outside = look_outside();
  const std::vector<Mishap> mishaps =
      explain(writes_, test.data(), reference.data(), request.offset, request.length, spans,
              outside ? Explanation::reference : Explanation::unknown);
  flight.asker.owner = &flight;
  flight.asker.go = [](Watch::Asker& asker, int error) {
    auto& asked = *static_cast<Flight*>(asker.owner);
    asked.mirror->settle(asked, error);
  };
  for (size_t i = 0; i < mishaps.size(); ++i) {
    json record = shown_mishap(flight, mishaps[i], test, reference);
    if (outside) record["reference_changed_outside"] = true;
    const bool last = i + 1 == mishaps.size();
    watch_.found(mishaps[i].why.damage, std::move(record), last ? &flight.asker : nullptr);
  }
}

json Mirror::shown_mishap(const Flight& flight, const Mishap& mishap, std::string_view a,
                          std::string_view b) const {
  const Request& request = *flight.parent;
  const auto& [why, spans] = mishap;
  const uint64_t begin = spans.front().offset, end = spans.back().offset + spans.back().length;
  uint64_t bytes = 0;
  for (const ByteSpan& span : spans) bytes += span.length;
  json record = {{"kind", "mismatch"},
                 {"class", damage_name(why.damage)},
                 {"suspect", suspect_name(why.suspect)},
                 {"request", shown(flight)},
                 {"ranges", shown_ranges(spans)},
                 {"ranges_total", spans.size()},
                 {"different_bytes", bytes}};
  const Side side = why.suspect == Explanation::reference ? Writes::reference : Writes::test;
  if (why.version != nullptr) {
    record["version"] = shown_write(writes_, *why.version, side);
    if (why.damage == Damage::misdirected) record["from"] = {{"offset_bytes", why.from}};
  }
  const uint64_t excerpt = std::max(begin / k_excerpt_row * k_excerpt_row, request.offset);
  const uint64_t skip = excerpt - request.offset;
  const auto part = [&](std::string_view all, uint64_t from, uint64_t length) {
    return all.substr(from, length);
  };
  record["excerpt"] = {{"offset_bytes", excerpt},
                       {"test_b64", base64_encode(part(a, skip, k_mirror_records_excerpt))},
                       {"reference_b64", base64_encode(part(b, skip, k_mirror_records_excerpt))}};
  record["xxh3"] = {{"offset_bytes", begin},
                    {"length_bytes", end - begin},
                    {"test", hash_text(part(a, begin - request.offset, end - begin))},
                    {"reference", hash_text(part(b, begin - request.offset, end - begin))}};
  record["last_writer"] = {
      {"test", last_writer(writes_, spans.front().offset,
                           spans.front().offset + spans.front().length, Writes::test)},
      {"reference", last_writer(writes_, spans.front().offset,
                                spans.front().offset + spans.front().length, Writes::reference)}};
  add_rules(record, flight);
  return record;
}

void Mirror::record_status(Flight& flight) {
  json record = {{"kind", "status"},
                 {"request", shown(flight)},
                 {"status",
                  {{"test", status_name(flight.legs[Writes::test].error)},
                   {"reference", status_name(flight.legs[Writes::reference].error)}}}};
  add_rules(record, flight);
  if (look_outside()) record["reference_changed_outside"] = true;
  bool known = false;
  for (const Leg& leg : flight.legs)
    known = known || (leg.error != 0 && !leg.injected.rule.empty());
  flight.asker.owner = &flight;
  flight.asker.go = [](Watch::Asker& asker, int error) {
    auto& asked = *static_cast<Flight*>(asker.owner);
    asked.mirror->settle(asked, error);
  };
  watch_.status(std::move(record), known, &flight.asker);
}

}  // namespace pv::blk
