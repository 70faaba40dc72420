// SPDX-License-Identifier: MIT
// The way of a request through the history.
#include "blk/mirror/history.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#define XXH_INLINE_ALL
#include <fcntl.h>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"
#include "blk/segments.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_run = 16384;  // entries that are written at once
constexpr uint64_t k_history_max_scrub = uint64_t{1} << 40;
constexpr size_t k_history_kept_buffer = 256 << 10;

constexpr ParamSpec k_history_params[] = {
    {"file", "PATH", "where the checksums are kept; made when it is not there", ParamSpec::path},
    {"on-mismatch", "POLICY", "what is answered: report (default), eio, hold or stop_vm"},
    {"identical", "MODE", "check (default) whether the file is of this disk, or assume it"},
    {"hold", "DURATION", "how long a request is held at most (default: 1m)"},
    {"scrub", "SIZE", "check in the background, so many bytes a second (default: 0, not)"},
    {"journal", "SIZE", "how large the journal may get before the oldest go (default 64M)"},
};

uint64_t checksum_of(const char* bytes, size_t size) {
  return XXH3_64bits(bytes, size);
}

uint64_t zero_checksum(size_t size) {
  static const std::array<char, HistoryFile::k_block> zeroes{};
  static const uint64_t whole = checksum_of(zeroes.data(), zeroes.size());
  return size == zeroes.size() ? whole : checksum_of(zeroes.data(), size);
}

}  // namespace

History::History(std::unique_ptr<Disk> lower, HistoryFile file, const Env& env,
                 const Watch::Options& options, uint64_t scrub_bytes_per_s)
    : Forward(std::move(lower)),
      env_(env),
      file_(std::move(file)),
      watch_(env, options),
      writes_(geometry().size),
      scrub_(*this, env, scrub_bytes_per_s) {}

uint64_t History::block_count(const Flight& flight) const {
  return (flight.place.end - flight.place.begin + k_block - 1) / k_block;
}

uint64_t History::bytes_of_block(uint64_t block) const {
  return std::min(k_block, geometry().size - block * k_block);
}

void History::submit(Request& request) {
  const bool looked_at = request.op == Op::read || changes_data(request.op);
  ++requests_;
  if (!scrub_.is_mine(request)) scrub_.busy();
  if (!looked_at || watch_.broken()) return lower().submit(request);
  Flight& flight = *flights_.take();
  flight.history = this;
  flight.parent = &request;
  flight.number = requests_;
  flight.merging = false;
  flight.buffer.clear();
  if (!flight.injected.rule.empty()) flight.injected = Injected{};
  flight.place.begin = request.offset / k_block * k_block;
  flight.place.end = std::min((request.offset + request.length + k_block - 1) / k_block * k_block,
                              geometry().size);
  flight.place.alone = changes_data(request.op);
  flight.place.owner = &flight;
  flight.place.go = [](RangeLock::Place& place) {
    auto& passing = *static_cast<Flight*>(place.owner);
    passing.history->start(passing);
  };
  lock_.enter(flight.place);
}

// A request that has only parts of its first or last block needs the rest of them too.
void History::start(Flight& flight) {
  const Request& request = *flight.parent;
  const bool whole = request.length == flight.place.end - flight.place.begin;
  if (request.op == Op::zero || request.op == Op::discard) return clear(flight);
  if (!whole) {
    flight.merging = request.op == Op::write;
    return read_blocks(flight);
  }
  if (request.op == Op::write) return write(flight);
  pass(flight);
}

void History::read_blocks(Flight& flight) {
  const uint64_t length = flight.place.end - flight.place.begin;
  flight.buffer.resize(length);
  flight.piece = {flight.buffer.data(), length};
  make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& ended = *static_cast<Flight*>(child.owner);
    ended.history->done(ended, error);
  });
  flight.child.op = Op::read;
  flight.child.offset = flight.place.begin;
  flight.child.length = length;
  flight.child.data = &flight.piece;
  flight.child.segments = 1;
  flight.child.loan = nullptr;
  flight.child.wire = nullptr;
  flight.child.injected = &flight.injected;
  if (flight.merging) flight.child.flags = k_internal;  // it is our read, not the guest's
  lower().submit(flight.child);
}

void History::pass(Flight& flight) {
  make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& ended = *static_cast<Flight*>(child.owner);
    ended.history->done(ended, error);
  });
  flight.child.loan = nullptr;
  flight.child.wire = nullptr;
  flight.child.injected = &flight.injected;
  lower().submit(flight.child);
}

// Both what is there and what is coming may be read until the disk has said that it is done.
void History::write(Flight& flight) {
  const Request& request = *flight.parent;
  flight.serial = writes_.begin(request, flight.number, watch_.now_ns(), Writes::Write::hashed);
  const uint64_t first = first_block(flight), count = block_count(flight);
  int error = file_.read(first, count, flight.entries);
  if (error != 0) flight.entries.assign(count, Entry{});
  std::array<char, k_block> split;
  uint64_t at = 0;
  for (uint64_t i = 0; i < count; ++i) {
    Entry& entry = flight.entries[i];
    const uint64_t size = bytes_of_block(first + i);
    const char* bytes = split.data();
    if (!flight.buffer.empty())
      bytes = flight.buffer.data() + at;
    else
      gather(request, at, split.data(), size);
    const bool known = entry.generation != 0 && (entry.flags & HistoryFile::k_unknown) == 0;
    entry.before = entry.checksum;
    entry.checksum = checksum_of(bytes, size);
    ++entry.generation;
    entry.flags = HistoryFile::k_either | (known ? 0U : HistoryFile::k_unknown);
    at += size;
  }
  if (error == 0) error = file_.write(first, flight.entries);
  give_up(error);
  pass(flight);
}

// What is known to be zeroes afterwards, and what is not known any more. Blocks that are touched in
// part are of the second kind, until they are read.
void History::clear(Flight& flight) {
  const Request& request = *flight.parent;
  const bool zeroes = request.op == Op::zero || geometry().discard == DiscardBehaviour::zeroes;
  const bool kept = request.op == Op::discard && geometry().discard == DiscardBehaviour::ignored;
  flight.serial = writes_.begin(request, flight.number, watch_.now_ns(),
                                zeroes ? Writes::Write::zeroes : Writes::Write::unknown);
  if (!kept)
    give_up(mark(first_block(flight), block_count(flight), HistoryFile::k_unknown, nullptr));
  pass(flight);
}

// All of them become the same, but for their generation.
int History::mark(uint64_t first, uint64_t count, uint32_t flags, const uint64_t* checksum) {
  std::vector<Entry> entries;
  for (uint64_t done = 0; done < count;) {
    const uint64_t n = std::min(k_run, count - done);
    if (const int error = file_.read(first + done, n, entries)) return error;
    for (Entry& entry : entries) {
      if (checksum != nullptr) {
        entry.checksum = *checksum;
      } else {
        entry.before = entry.checksum;
        ++entry.generation;
      }
      entry.flags = flags;
    }
    if (const int error = file_.write(first + done, entries)) return error;
    done += n;
  }
  return 0;
}

void History::done(Flight& flight, int error) {
  const Request& request = *flight.parent;
  if (flight.merging) {
    flight.merging = false;
    if (error != 0) return finish(flight, error);
    look(flight);  // tells of it; the write goes on
    gather(request, 0, flight.buffer.data() + (request.offset - flight.place.begin),
           request.length);
    return write(flight);
  }
  if (changes_data(request.op)) {
    changed(flight, error);
    return finish(flight, error);
  }
  if (error != 0) return finish(flight, error);
  if (!flight.buffer.empty())
    scatter(request, 0, flight.buffer.data() + (request.offset - flight.place.begin),
            request.length);
  if (look(flight)) finish(flight, 0);
}

void History::changed(Flight& flight, int error) {
  const Request& request = *flight.parent;
  writes_.end(flight.serial, Writes::test, error, flight.injected.rule);
  const uint64_t first = first_block(flight);
  int failed = 0;
  if (request.op == Op::write) {
    for (Entry& entry : flight.entries) entry.flags = error != 0 ? HistoryFile::k_unknown : 0U;
    failed = file_.write(first, flight.entries);
  } else if (error == 0 &&
             (request.op == Op::zero || geometry().discard == DiscardBehaviour::zeroes)) {
    const uint64_t from = (request.offset + k_block - 1) / k_block;
    const uint64_t to = (request.offset + request.length) / k_block;
    const uint64_t zeroes = zero_checksum(k_block);
    if (from < to) failed = mark(from, to - from, 0, &zeroes);
  }
  give_up(failed);
}

// What an entry says that could not be written is not what the disk should hold, and everything
// that is found by it from then on would be wrong.
void History::give_up(int error) {
  if (error == 0 || watch_.broken()) return;
  watch_.set_broken(error);
  file_.set_broken(error);
}

void History::finish(Flight& flight, int error) {
  Request* parent = flight.parent;
  if (parent->injected != nullptr && error != 0 && !flight.injected.rule.empty())
    *parent->injected = flight.injected;
  if (flight.buffer.capacity() > k_history_kept_buffer) flight.buffer = {};
  lock_.leave(flight.place);
  flights_.give(&flight);
  parent->done(*parent, error);
}

Result<json> History::control(const json& request) {
  if (auto answer = watch_.control(request)) {
    if (*answer && get_string(request, "op") == "verify.status")
      (**answer)["verify"]["damaged_entries"] = file_.damaged();
    return std::move(*answer);
  }
  return lower().control(request);
}

Result<> History::resize(uint64_t size) {
  TRY(lower().resize(size));
  return file_.resize(size);
}

void History::inspect(json& out) const {
  out["history"] = watch_.shown();
  out["history"].update({{"requests", requests_},
                         {"checked_bytes", checked_bytes_},
                         {"learned_blocks", learned_},
                         {"damaged_entries", file_.damaged()},
                         {"forgotten", file_.forgotten()},
                         {"scrub", scrub_.shown()}});
  lower().inspect(out);
}

Result<> History::save_state(StateOut& out) {
  if (out.in_base()) return lower().save_state(out);
  return fail(Code::unsupported, "a disk with a history cannot be part of a snapshot");
}

std::span<const ParamSpec> history_params() {
  return k_history_params;
}

Result<std::unique_ptr<Disk>> make_history(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env& env) {
  TRY_ASSIGN(const Watch::Options options, Watch::parse(spec));
  const auto path = spec.params.find("file");
  if (path == spec.params.end() || path->second.empty())
    return fail(Code::usage, "layer 'history' needs a file, e.g. history:file=disk.history");
  const auto given = spec.params.find("scrub");
  const auto scrub = parse_size(given == spec.params.end() ? "0" : given->second);
  if (!scrub || *scrub > k_history_max_scrub)
    return fail(Code::usage, fmt::format("layer 'history': scrub={} is not a size up to {}",
                                         given->second, format_size(k_history_max_scrub)));
  TRY_ASSIGN(HistoryFile file, HistoryFile::open(path->second, lower->geometry().size));
  const auto mode = spec.params.find("identical");
  if (mode != spec.params.end() && mode->second != "check" && mode->second != "assume")
    return fail(
        Code::usage,
        fmt::format("layer 'history': identical={} is neither check nor assume", mode->second));
  if (mode == spec.params.end() || mode->second == "check")
    TRY(check_same_disk(file, *lower, env.loop));
  return std::make_unique<History>(std::move(lower), std::move(file), env, options, *scrub);
}

}  // namespace pv::blk
