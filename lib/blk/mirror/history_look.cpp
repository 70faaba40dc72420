// SPDX-License-Identifier: MIT
// What was read against what should be there.
#include <algorithm>
#include <cstring>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/mirror/history.hpp"
#include "blk/mirror/records.hpp"
#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_history_look_excerpt = 256;  // bytes

bool is_zero(const char* bytes, size_t size) {
  return std::all_of(bytes, bytes + size, [](char c) { return c == 0; });
}

// Whether one bit, turned, makes the checksum right. Some milliseconds for a block of 4 KiB, which
// is little for something that is found once.
bool one_bit_off(const char* bytes, size_t size, uint64_t wanted) {
  std::string copy(bytes, size);
  for (size_t bit = 0; bit < 8 * size; ++bit) {
    const char mask = static_cast<char>(1 << bit % 8);
    copy[bit / 8] = static_cast<char>(copy[bit / 8] ^ mask);
    const bool right = XXH3_64bits(copy.data(), size) == wanted;
    copy[bit / 8] = static_cast<char>(copy[bit / 8] ^ mask);
    if (right) return true;
  }
  return false;
}

}  // namespace

// The whole blocks of a flight in one piece.
const char* History::bytes_of(Flight& flight, std::string& gathered) const {
  if (!flight.buffer.empty()) return flight.buffer.data();
  const Request& request = *flight.parent;
  if (request.segments == 1) return static_cast<const char*>(request.data[0].iov_base);
  gathered.resize(request.length);
  gather(request, 0, gathered.data(), request.length);
  return gathered.data();
}

// What may be there by the entry; from then on it is the one that is.
bool History::fits(Entry& entry, uint64_t checksum, bool& changed) const {
  const bool unknown = entry.generation == 0 || (entry.flags & HistoryFile::k_unknown) != 0;
  if (entry.checksum == checksum && entry.flags == 0 && !unknown) return true;
  const bool either = (entry.flags & HistoryFile::k_either) != 0;
  if (!unknown && entry.checksum != checksum && !(either && entry.before == checksum)) return false;
  entry.checksum = checksum;
  entry.generation = std::max<uint32_t>(entry.generation, 1);
  entry.flags = 0;
  return changed = true;
}

// False when a mismatch was found and the policy answers the request in its time. A write that only
// has to know the rest of its blocks does not wait.
bool History::look(Flight& flight) {
  if (watch_.broken()) return true;  // meanwhile
  const uint64_t first = first_block(flight), count = block_count(flight);
  if (const int error = file_.read(first, count, flight.entries)) {
    give_up(error);
    return true;
  }
  const bool waits = flight.parent->op == Op::read;
  std::string gathered;
  const char* bytes = bytes_of(flight, gathered);
  bool changed = false, news = false;
  std::vector<uint64_t> bad;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t size = bytes_of_block(first + i);
    checked_bytes_ += size;
    bool learned = false;
    const uint64_t there = XXH3_64bits(bytes + i * k_block, size);
    if (!fits(flight.entries[i], there, learned)) {
      bad.push_back(first + i);
      news = scrub_.is_news((first + i) * k_block, there + flight.entries[i].generation) || news;
    }
    learned_ += learned ? 1 : 0;
    changed = changed || learned;
  }
  if (changed) give_up(file_.write(first, flight.entries));
  if (bad.empty() || (!news && scrub_.is_mine(*flight.parent))) return true;
  record_mismatch(flight, bytes, bad, waits);
  return false;
}

// By what of its sectors is known of this run: the hashes that writes have left.
Explanation History::explain_by_sectors(uint64_t offset, const char* bytes, uint64_t size) const {
  size_t current = 0, older = 0, sectors = 0;
  const Writes::Write* version = nullptr;
  for (uint64_t at = 0; at + k_unit <= size; at += k_unit, ++sectors) {
    const uint64_t there = hash_unit(bytes + at);
    bool newest = true;
    writes_.each(offset + at, offset + at + k_unit, [&](const Writes::Write& write) {
      if (writes_.hash(write, offset + at) == there) {
        ++(newest ? current : older);
        if (!newest) version = &write;
        return false;
      }
      newest = false;
      return true;
    });
  }
  if (older != 0 && older + current == sectors)
    return {current == 0 ? Damage::stale : Damage::torn, Explanation::test, version, 0};
  if (is_zero(bytes, size)) return {Damage::zeroed, Explanation::test, nullptr, 0};
  for (uint64_t at = 0; at + k_unit <= size; at += k_unit) {
    const uint64_t there = hash_unit(bytes + at);
    if (there == zero_unit_hash()) continue;
    const auto found = writes_.find(there, offset + at);
    if (!found) break;
    if (found->write->offset < offset + size && offset < found->write->end) continue;
    return {Damage::misdirected, Explanation::test, found->write, found->offset};
  }
  return {Damage::other, Explanation::test, nullptr, 0};
}

Explanation History::explain_block(uint64_t block, const char* bytes, const Entry& entry) const {
  const uint64_t size = bytes_of_block(block);
  if (XXH3_64bits(bytes, size) == entry.before && entry.generation > 1)
    return {Damage::stale, Explanation::test, nullptr, 0};
  Explanation why = explain_by_sectors(block * k_block, bytes, size);
  if (why.damage == Damage::other && one_bit_off(bytes, size, entry.checksum))
    why.damage = Damage::bit_flip;
  return why;
}

// The blocks by the write that should be there; the first of each stands for the others.
std::vector<Mishap> History::explain_blocks(const Flight& flight, const char* all,
                                            const std::vector<uint64_t>& bad) const {
  constexpr size_t k_max_writes = 256;  // that are looked at
  std::vector<const Writes::Write*> writes;
  writes_.each(bad.front() * k_block, (bad.back() + 1) * k_block, [&](const Writes::Write& write) {
    writes.push_back(&write);
    return writes.size() < k_max_writes;
  });
  Groups writers;
  std::vector<std::vector<ByteSpan>> groups;
  for (const uint64_t block : bad) {
    const auto newest = std::find_if(writes.begin(), writes.end(), [&](const auto* write) {
      return write->offset < (block + 1) * k_block && block * k_block < write->end;
    });
    const size_t group = writers.of(newest == writes.end() ? nullptr : *newest);
    if (group == groups.size()) groups.emplace_back();
    const uint64_t begin = block * k_block;
    add_span(groups[group], begin, begin + bytes_of_block(block));
  }
  std::vector<Mishap> mishaps;
  for (auto& spans : groups) {
    const uint64_t block = spans.front().offset / k_block;
    const Explanation why = explain_block(block, all + (block * k_block - flight.place.begin),
                                          flight.entries[block - first_block(flight)]);
    add_mishap(mishaps, {why, std::move(spans)});
  }
  return mishaps;
}

json History::shown_mishap(const Flight& flight, const char* all, const Mishap& mishap) const {
  const auto& [why, spans] = mishap;
  const uint64_t offset = spans.front().offset, block = offset / k_block;
  const uint64_t size = bytes_of_block(block);
  const char* bytes = all + (offset - flight.place.begin);
  const Entry entry = flight.entries[block - first_block(flight)];
  json request = shown_request(flight.number, *flight.parent, watch_.now_ns());
  if (scrub_.is_mine(*flight.parent)) request["scrub"] = true;
  json record = {{"kind", "mismatch"},
                 {"class", damage_name(why.damage)},
                 {"suspect", suspect_name(why.suspect)},
                 {"request", std::move(request)},
                 {"ranges", shown_ranges(spans)},
                 {"ranges_total", spans.size()}};
  if (why.version != nullptr) record["version"] = shown_write(writes_, *why.version, Writes::test);
  if (why.damage == Damage::misdirected) record["from"] = {{"offset_bytes", why.from}};
  record["generation"] = entry.generation;
  record["excerpt"] = {
      {"offset_bytes", offset},
      {"test_b64",
       base64_encode({bytes, static_cast<size_t>(std::min(k_history_look_excerpt, size))})}};
  record["xxh3"] = {{"offset_bytes", offset},
                    {"length_bytes", size},
                    {"test", hash_text({bytes, static_cast<size_t>(size)})},
                    {"reference", fmt::format("{:016x}", entry.checksum)}};
  record["last_writer"] = {{"test", last_writer(writes_, offset, offset + size, Writes::test)}};
  if (!flight.injected.rule.empty())
    record["rule"] = {{"leg", "test"}, {"id", flight.injected.rule}};
  return record;
}

// A finding for each mishap; the policy's question is asked with the last one.
void History::record_mismatch(Flight& flight, const char* all, const std::vector<uint64_t>& bad,
                              bool waits) {
  flight.asker.owner = &flight;
  flight.asker.go = [](Watch::Asker& asker, int error) {
    auto& asked = *static_cast<Flight*>(asker.owner);
    asked.history->finish(asked, error);
  };
  const std::vector<Mishap> mishaps = explain_blocks(flight, all, bad);
  for (size_t i = 0; i < mishaps.size(); ++i) {
    const bool asks = waits && i + 1 == mishaps.size();
    watch_.found(mishaps[i].why.damage, shown_mishap(flight, all, mishaps[i]),
                 asks ? &flight.asker : nullptr);
  }
}

}  // namespace pv::blk
