// SPDX-License-Identifier: MIT
#include "blk/backend/memory.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

#include "base/json.hpp"
#include "blk/checked.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_block = 64 << 10;  // what is allocated and given back at once
// Address space that a disk may grow into without moving: bytes of it may be lent at any time.
constexpr uint64_t k_spare = uint64_t{1} << 40;

class MemoryDisk final : public Disk {
 public:
  MemoryDisk(const Geometry& geometry, char* base, uint64_t reserved)
      : geometry_(geometry), base_(base), reserved_(reserved) {}
  ~MemoryDisk() override {
    munmap(base_, reserved_);
    std::free(present_);
  }

  Result<> open() {
    blocks_ = reserved_ / k_block + 1;
    present_ = static_cast<uint64_t*>(std::calloc(blocks_ / 64 + 1, sizeof(uint64_t)));
    if (present_ == nullptr) return fail_errno("memory for the disk", ENOMEM);
    return make_usable(geometry_.size);
  }

  const Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    switch (request.op) {
      case Op::read:
        read(request);
        break;
      case Op::write:
        write(request);
        break;
      case Op::discard:
      case Op::zero:
        clear(request);
        break;
      case Op::map:
        map(request);
        break;
      case Op::flush:
      case Op::cache:
        break;
    }
    request.done(request, 0);
  }

  Result<> resize(uint64_t size) override {
    Geometry changed = geometry_;
    changed.size = size;
    TRY(check_geometry(changed));
    if (size > reserved_)
      return fail(Code::unsupported, "a disk in memory cannot grow by more than 1 TiB");
    if (size < geometry_.size) {
      Request cut;
      cut.offset = size;
      cut.length = geometry_.size - size;
      clear(cut);
    } else {
      TRY(make_usable(size));
    }
    geometry_ = changed;
    return {};
  }

  void inspect(json& out) const override {
    out["backend"] = {{"type", "memory"}, {"allocated_bytes", allocated_ * k_block}};
  }

 private:
  Result<> make_usable(uint64_t size) {
    const uint64_t whole = (size + k_block - 1) / k_block * k_block;
    if (mprotect(base_, whole, PROT_READ | PROT_WRITE) < 0)
      return fail_errno("memory for the disk", errno);
    return {};
  }

  bool present(uint64_t block) const { return (present_[block / 64] >> block % 64 & 1) != 0; }

  void set_present(uint64_t block, bool value) {
    if (present(block) == value) return;
    present_[block / 64] ^= uint64_t{1} << block % 64;
    allocated_ += value ? 1 : uint64_t(-1);
  }

  // The end of the run of blocks from `at` on that are all there, or all missing; at most `end`.
  uint64_t run_end(uint64_t at, uint64_t end) const {
    uint64_t block = at / k_block;
    const bool there = present(block);
    while (block * k_block < end && present(block) == there) ++block;
    return std::min(end, block * k_block);
  }

  void read(Request& request) {
    const uint64_t end = request.offset + request.length;
    const uint64_t run = run_end(request.offset, end);
    if (request.loan != nullptr && run == end && lend(request)) return;
    uint64_t at = request.offset;
    for (int i = 0; i < request.segments; ++i) {
      auto* data = static_cast<char*>(request.data[i].iov_base);
      for (size_t left = request.data[i].iov_len; left != 0;) {
        // Untouched memory is not looked at: that would cost page tables.
        const bool there = present(at / k_block);
        const uint64_t n = run_end(at, at + left) - at;
        if (there)
          std::memcpy(data, base_ + at, n);
        else
          std::memset(data, 0, n);
        at += n;
        data += n;
        left -= n;
      }
    }
  }

  bool lend(const Request& request) const {
    static const std::array<char, 256 << 10> zeroes{};
    const bool there = present(request.offset / k_block);
    if (!there && request.length > zeroes.size()) return false;
    request.loan->kind = Loan::memory;
    request.loan->at = there ? base_ + request.offset : zeroes.data();
    return true;
  }

  void write(const Request& request) {
    uint64_t at = request.offset;
    for (int i = 0; i < request.segments; ++i) {
      std::memcpy(base_ + at, request.data[i].iov_base, request.data[i].iov_len);
      at += request.data[i].iov_len;
    }
    for (uint64_t block = request.offset / k_block; block * k_block < at; ++block)
      set_present(block, true);
  }

  void clear(const Request& request) {
    uint64_t at = request.offset;
    const uint64_t end = request.offset + request.length;
    while (at < end) {
      const uint64_t n = std::min(end - at, k_block - at % k_block);
      if (!present(at / k_block)) {
        at = run_end(at, end);
        continue;
      }
      if (n == k_block && (request.flags & k_no_unmap) == 0) {
        madvise(base_ + at, k_block, MADV_DONTNEED);
        set_present(at / k_block, false);
      } else {
        std::memset(base_ + at, 0, n);
      }
      at += n;
    }
  }

  void map(const Request& request) {
    uint64_t at = request.offset;
    const uint64_t end = request.offset + request.length;
    while (at < end) {
      const uint64_t next = run_end(at, end);
      request.extents->push_back({next - at, present(at / k_block) ? 0U : k_hole | k_zero});
      at = next;
      if ((request.flags & k_one) != 0) break;
    }
  }

  Geometry geometry_;
  char* base_;  // anonymous memory; the kernel gives it pages when they are written
  uint64_t reserved_;
  uint64_t blocks_ = 0;
  uint64_t* present_ = nullptr;  // a bit for each block
  uint64_t allocated_ = 0;
};

void* reserve(uint64_t size) {
  return mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

}  // namespace

Result<std::unique_ptr<Disk>> make_memory_disk(const Geometry& geometry) {
  uint64_t reserved = (geometry.size + k_block - 1) / k_block * k_block;
  void* base = reserve(reserved + k_spare);
  if (base != MAP_FAILED)
    reserved += k_spare;
  else
    base = reserve(reserved);
  if (base == MAP_FAILED) return fail_errno("memory for the disk", errno);
  madvise(base, reserved, MADV_NOHUGEPAGE);  // sparse stays sparse
  auto disk = std::make_unique<MemoryDisk>(geometry, static_cast<char*>(base), reserved);
  TRY(disk->open());
  return disk;
}

}  // namespace pv::blk
