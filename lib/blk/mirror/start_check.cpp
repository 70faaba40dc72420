// SPDX-License-Identifier: MIT
// Whether two disks hold the same, before a mirror of them serves the first request.
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/loop.hpp"
#include "blk/mirror/mirror.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_start_check_piece = 1 << 20;

// One request on each leg at a time, waited for.
class Pair {
 public:
  Pair(Disk& a, Disk& b, Loop* loop) : disks_{&a, &b}, loop_(loop) {
    for (auto& buffer : buffers_) buffer.reset(new char[k_start_check_piece]);
  }

  Result<> run(Op op, uint64_t offset, uint64_t length) {
    pending_ = 2;
    for (size_t i = 0; i < 2; ++i) {
      extents_[i].clear();
      pieces_[i] = {buffers_[i].get(), length};
      Request& request = requests_[i];
      request = Request{};
      request.op = op;
      request.flags = k_internal | k_one;
      request.offset = offset;
      request.length = length;
      request.extents = op == Op::map ? &extents_[i] : nullptr;
      if (op == Op::read) {
        request.data = &pieces_[i];
        request.segments = 1;
      }
      request.owner = this;
      request.done = [](Request& done, int error) {
        auto& pair = *static_cast<Pair*>(done.owner);
        pair.errors_[&done == &pair.requests_[0] ? 0 : 1] = error;
        --pair.pending_;
      };
      disks_[i]->submit(request);
    }
    while (pending_ != 0) {
      if (loop_ == nullptr) return fail(Code::bug, "a disk that needs a loop, and there is none");
      TRY(loop_->run_once(-1));
    }
    for (size_t i = 0; i < 2; ++i)
      if (errors_[i] != 0)
        return fail(
            Code::io,
            fmt::format("layer 'mirror': the {} cannot be read at {}: {}",
                        i == 0 ? "disk under test" : "reference", offset, errno_name(errors_[i])),
            errors_[i]);
    return {};
  }

  // How much of [offset, …) reads as zeroes on both legs, or is to be read; `zeroes` says which.
  uint64_t extent(uint64_t length, bool& zeroes) const {
    zeroes = true;
    for (const auto& extents : extents_) {
      if (extents.empty()) return std::min(length, k_start_check_piece);
      length = std::min(length, extents.front().length);
      zeroes = zeroes && (extents.front().flags & k_zero) != 0;
    }
    return length;
  }
  const char* bytes(size_t side) const { return buffers_[side].get(); }

 private:
  Disk* disks_[2];
  Loop* loop_;
  Request requests_[2];
  iovec pieces_[2] = {};
  std::vector<Extent> extents_[2];
  std::unique_ptr<char[]> buffers_[2];
  int errors_[2] = {0, 0};
  int pending_ = 0;
};

Error first_difference(const Pair& pair, uint64_t offset, uint64_t length) {
  const auto spans = differences(pair.bytes(0), pair.bytes(1), offset, length, k_start_check_piece);
  const uint64_t at = spans.front().offset;
  const auto byte = [&](size_t side) {
    return static_cast<uint8_t>(pair.bytes(side)[at - offset]);
  };
  return Error(Code::invalid,
               fmt::format("layer 'mirror': the legs are not identical at the start: at byte {} "
                           "the disk under test has 0x{:02x}, the reference 0x{:02x} (a mirror "
                           "that takes them for identical is asked for)",
                           at, byte(0), byte(1)))
      .with("offset_bytes", at);
}

}  // namespace

Result<> check_identical(Disk& test, Disk& reference, Loop* loop) {
  Pair pair(test, reference, loop);
  const uint64_t size = test.geometry().size;
  for (uint64_t at = 0; at < size;) {
    TRY(pair.run(Op::map, at, size - at));
    bool zeroes = false;
    const uint64_t extent = pair.extent(size - at, zeroes);
    const uint64_t end = at + extent;
    while (at < end && !zeroes) {
      const uint64_t length = std::min(end - at, k_start_check_piece);
      TRY(pair.run(Op::read, at, length));
      if (std::memcmp(pair.bytes(0), pair.bytes(1), length) != 0)
        return fail(first_difference(pair, at, length));
      at += length;
    }
    at = end;
  }
  return {};
}

}  // namespace pv::blk
