// SPDX-License-Identifier: MIT
// Whether a history is of the disk that it is given, before the first request: some of the blocks
// that it knows are read. One that has lost a few writes is still the same disk.
#include <array>
#define XXH_INLINE_ALL
#include <algorithm>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/loop.hpp"
#include "blk/disk.hpp"
#include "blk/mirror/history_file.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_sampled = 64;     // blocks that are read
constexpr size_t k_enough = 8;       // fewer say nothing
constexpr size_t k_one_fits_in = 8;  // of one disk at least so many do

Result<bool> read_block(Disk& disk, uint64_t offset, iovec piece, Loop* loop) {
  struct Wait {
    bool done = false;
    int error = 0;
  } wait;
  Request request;
  request.op = Op::read;
  request.flags = k_internal;
  request.offset = offset;
  request.length = piece.iov_len;
  request.data = &piece;
  request.segments = 1;
  request.owner = &wait;
  request.done = [](Request& done, int error) {
    auto& waits = *static_cast<Wait*>(done.owner);
    waits = {true, error};
  };
  disk.submit(request);
  while (!wait.done) {
    if (loop == nullptr) return fail(Code::bug, "a disk that needs a loop, and there is none");
    TRY(loop->run_once(-1));
  }
  return wait.error == 0;
}

}  // namespace

Result<> check_same_disk(HistoryFile& file, Disk& disk, Loop* loop) {
  std::array<char, HistoryFile::k_block> bytes{};
  // Blank blocks are the same on all disks.
  const auto known = file.sample(k_sampled, XXH3_64bits(bytes.data(), bytes.size()));
  size_t fit = 0, looked_at = 0;
  for (const auto& [block, entry] : known) {
    const uint64_t offset = block * HistoryFile::k_block;
    const size_t size = std::min<uint64_t>(bytes.size(), disk.geometry().size - offset);
    TRY_ASSIGN(const bool read, read_block(disk, offset, {bytes.data(), size}, loop));
    if (!read) continue;
    const uint64_t there = XXH3_64bits(bytes.data(), size);
    fit += there == entry.checksum || there == entry.before ? 1 : 0;
    ++looked_at;
  }
  if (looked_at < k_enough || fit * k_one_fits_in >= looked_at) return {};
  return fail(Code::incompatible,
              fmt::format("the history {} is of another disk: {} of {} blocks hold something else "
                          "(a history that is taken for this disk's is asked for)",
                          file.path(), looked_at - fit, looked_at));
}

}  // namespace pv::blk
