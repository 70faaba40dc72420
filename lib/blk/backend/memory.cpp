// SPDX-License-Identifier: MIT
#include "blk/backend/memory.hpp"

#include <cstring>
#include <sys/mman.h>

#include <nlohmann/json.hpp>

namespace pv::blk {
namespace {

constexpr uint64_t k_page = 64 << 10;

class MemoryDisk final : public Disk {
 public:
  MemoryDisk(const Geometry& geometry, char** table, size_t entries)
      : geometry_(geometry), table_(table), entries_(entries) {}
  ~MemoryDisk() override {
    for (uint64_t i = 0; pages_ != 0 && i < entries_; ++i) drop(i);
    munmap(table_, entries_ * sizeof(char*));
  }

  const Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    int error = 0;
    switch (request.op) {
      case Op::read:
        each(request, [&](uint64_t at, char* data, size_t n) {
          if (const char* page = table_[at / k_page])
            std::memcpy(data, page + at % k_page, n);
          else
            std::memset(data, 0, n);
        });
        break;
      case Op::write:
        each(request, [&](uint64_t at, char* data, size_t n) {
          if (char* page = page_for(at / k_page))
            std::memcpy(page + at % k_page, data, n);
          else
            error = ENOSPC;
        });
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
    request.done(request, error);
  }

  void inspect(json& out) const override {
    out["backend"] = {{"type", "memory"}, {"allocated_bytes", pages_ * k_page}};
  }

 private:
  // Walks a request in pieces that lie within one page and one segment.
  template <class F>
  static void each(const Request& request, F&& piece) {
    uint64_t at = request.offset;
    for (int i = 0; i < request.segments; ++i) {
      auto* data = static_cast<char*>(request.data[i].iov_base);
      size_t left = request.data[i].iov_len;
      while (left != 0) {
        const size_t n = std::min<uint64_t>(left, k_page - at % k_page);
        piece(at, data, n);
        at += n;
        data += n;
        left -= n;
      }
    }
  }

  char* page_for(uint64_t index) {
    if (table_[index]) return table_[index];
    void* page = mmap(nullptr, k_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return nullptr;
    ++pages_;
    return table_[index] = static_cast<char*>(page);
  }

  void drop(uint64_t index) {
    if (!table_[index]) return;
    munmap(table_[index], k_page);
    table_[index] = nullptr;
    --pages_;
  }

  void clear(const Request& request) {
    uint64_t at = request.offset;
    const uint64_t end = request.offset + request.length;
    while (at < end) {
      const uint64_t n = std::min(end - at, k_page - at % k_page);
      if (n == k_page && (request.flags & k_no_unmap) == 0)
        drop(at / k_page);
      else if (char* page = table_[at / k_page])
        std::memset(page + at % k_page, 0, n);
      at += n;
    }
  }

  void map(const Request& request) {
    uint64_t at = request.offset;
    const uint64_t end = request.offset + request.length;
    while (at < end) {
      const bool hole = table_[at / k_page] == nullptr;
      uint64_t next = at;
      while (next < end && (table_[next / k_page] == nullptr) == hole)
        next = std::min(end, (next / k_page + 1) * k_page);
      request.extents->push_back({next - at, hole ? k_hole | k_zero : 0U});
      at = next;
      if ((request.flags & k_one) != 0) break;
    }
  }

  Geometry geometry_;
  char** table_;  // one pointer per 64 KiB, itself mapped so that untouched parts cost nothing
  size_t entries_;
  uint64_t pages_ = 0;
};

}  // namespace

Result<std::unique_ptr<Disk>> make_memory_disk(const Geometry& geometry) {
  const size_t entries = (geometry.size + k_page - 1) / k_page;
  void* table = mmap(nullptr, entries * sizeof(char*), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (table == MAP_FAILED) return fail_errno("memory for the disk", errno);
  return std::make_unique<MemoryDisk>(geometry, static_cast<char**>(table), entries);
}

}  // namespace pv::blk
