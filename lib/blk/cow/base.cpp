// SPDX-License-Identifier: MIT
#include "blk/cow/base.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/text.hpp"

#define XXH_INLINE_ALL
#include <cerrno>
#include <xxhash.h>

namespace pv::blk {
namespace {

constexpr uint64_t k_piece = 1 << 20, k_page = 4096;
constexpr uint64_t k_samples = 1024, k_sample = 16 << 10;

struct Wait {
  Request request;
  bool done = false;
  int error = 0;
};

Result<> run(Disk& disk, Loop* loop, Wait& wait) {
  wait.request.flags |= k_internal;
  wait.request.owner = &wait;
  wait.request.done = [](Request& request, int error) {
    auto& waiting = *static_cast<Wait*>(request.owner);
    waiting.done = true;
    waiting.error = error;
  };
  disk.submit(wait.request);
  while (!wait.done) {
    if (loop == nullptr) return fail(Code::bug, "a base that answers late needs a loop");
    TRY(loop->run_once(-1));
  }
  if (wait.error != 0) return fail_errno("cannot read the base", wait.error);
  return {};
}

Result<> read_range(Disk& disk, Loop* loop, uint64_t offset, std::string& bytes) {
  Wait wait;
  iovec piece{bytes.data(), bytes.size()};
  wait.request.op = Op::read;
  wait.request.offset = offset;
  wait.request.length = bytes.size();
  wait.request.data = &piece;
  wait.request.segments = 1;
  return run(disk, loop, wait);
}

// Where data is, front to back; `visit(offset, length)` returns false to stop.
template <class Visit>
Result<> each_data(Disk& disk, Loop* loop, Visit&& visit) {
  std::vector<Extent> extents;
  const uint64_t size = disk.geometry().size;
  for (uint64_t at = 0; at < size;) {
    Wait wait;
    extents.clear();
    wait.request.op = Op::map;
    wait.request.offset = at;
    wait.request.length = std::min<uint64_t>(size - at, uint64_t{1} << 30);
    wait.request.extents = &extents;
    TRY(run(disk, loop, wait));
    for (const Extent& extent : extents) {
      if ((extent.flags & k_zero) == 0) {
        TRY_ASSIGN(const bool more, visit(at, extent.length));
        if (!more) return {};
      }
      at += extent.length;
    }
  }
  return {};
}

// Pages that hold something, each with its place: holes and written zeroes are the same.
void hash_pages(XXH3_state_t* state, uint64_t offset, const std::string& bytes) {
  for (size_t at = 0; at < bytes.size(); at += k_page) {
    const size_t n = std::min<size_t>(k_page, bytes.size() - at);
    const char* page = bytes.data() + at;
    if (std::all_of(page, page + n, [](char c) { return c == 0; })) continue;
    const uint64_t place = offset + at;
    XXH3_64bits_update(state, &place, sizeof place);
    XXH3_64bits_update(state, page, n);
  }
}

}  // namespace

uint64_t edges_hash(std::string_view first, std::string_view last) {
  return XXH3_64bits(first.data(), first.size()) ^
         XXH3_64bits_withSeed(last.data(), last.size(), 1);
}

Result<BaseIdentity> look_at_base(Disk& base, Loop* loop) {
  BaseIdentity identity;
  identity.size = base.geometry().size;
  if (auto file = base.control({{"op", "base.identity"}})) {
    identity.file_size = get_u64(*file, "file_size");
    identity.mtime_ns = get_u64(*file, "mtime_ns");
  }
  const uint64_t n = std::min(identity.size, k_base_edge);
  std::string first(n, '\0'), last(n, '\0');
  TRY(read_range(base, loop, 0, first));
  TRY(read_range(base, loop, identity.size - n, last));
  identity.edges = edges_hash(first, last);
  return identity;
}

Result<bool> small_base(Disk& base, Loop* loop) {
  uint64_t data = 0;
  TRY(each_data(base, loop, [&](uint64_t, uint64_t length) -> Result<bool> {
    data += length;
    return data <= k_base_whole;
  }));
  return data <= k_base_whole;
}

Result<> read_base(Disk& base, Loop* loop, bool whole, BaseIdentity& identity) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  if (!state) return fail_errno("memory for a checksum", ENOMEM);
  XXH3_64bits_reset(state.get());
  std::string bytes;
  uint64_t taken = 0;  // up to here: extents may share a page
  const auto take = [&](uint64_t offset, uint64_t length) -> Result<bool> {
    // Whole pages, wherever the extents begin.
    const uint64_t end = std::min(identity.size, (offset + length + k_page - 1) / k_page * k_page);
    for (uint64_t at = std::max(offset / k_page * k_page, taken); at < end; at += bytes.size()) {
      bytes.resize(std::min(end - at, k_piece));
      TRY(read_range(base, loop, at, bytes));
      hash_pages(state.get(), at, bytes);
    }
    taken = std::max(taken, end);
    return true;
  };
  if (whole) {
    TRY(each_data(base, loop, take));
  } else {
    const uint64_t step = std::max(identity.size / k_samples / k_page * k_page, k_sample);
    for (uint64_t at = 0; at < identity.size; at += step)
      TRY(take(at, std::min(k_sample, identity.size - at)));
  }
  identity.whole = whole;
  identity.content = XXH3_64bits_digest(state.get());
  return {};
}

Result<std::string> base_differs(Disk& base, Loop* loop, const BaseIdentity& known) {
  TRY_ASSIGN(BaseIdentity now, look_at_base(base, loop));
  if (now.size != known.size)
    return fmt::format("it has {} bytes instead of {}", now.size, known.size);
  if (now.edges != known.edges) return std::string("its first or last 64 KiB are others");
  const bool timed = now.mtime_ns != 0 && known.mtime_ns != 0;
  if (timed && now.mtime_ns == known.mtime_ns && now.file_size == known.file_size)
    return std::string();
  if (timed && !known.whole)  // samples do not prove that nothing has changed
    return std::string("its file has another time, and it is too large to be compared whole");
  TRY(read_base(base, loop, known.whole, now));
  if (now.content != known.content) return std::string("its content is another");
  return std::string();
}

}  // namespace pv::blk
