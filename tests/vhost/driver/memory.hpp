// SPDX-License-Identifier: MIT
// The guest's memory, as the test front end makes and shares it: regions in memfds, each at a guest
// physical address and at a made-up user address, so that a server which confuses the two, or which
// takes either for an offset, is seen. One thread allocates; the bytes are shared with the server.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "protocol.hpp"

namespace pv::test::vhost {

// Two regions with a gap between them, as a PC's memory below and above 4 GiB; the second one
// begins in the middle of its file.
std::vector<MemoryRegion> default_regions(uint64_t size_each = 16 << 20);

// Shared pages of a file, unmapped when it goes.
class Mapping {
 public:
  Mapping() = default;
  static Result<Mapping> make(int fd, uint64_t size, uint64_t offset);
  Mapping(Mapping&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping();
  char* data() const { return base_; }
  uint64_t size() const { return size_; }

 private:
  char* base_ = nullptr;
  uint64_t size_ = 0;
};

// A memfd of that many zeroes.
Result<Fd> make_memfd(const char* name, uint64_t size);

class Memory {
 public:
  Memory() = default;
  static Result<Memory> make(const std::vector<MemoryRegion>& regions);

  // One more region, backed by zeroes. Returns its number.
  Result<size_t> add(const MemoryRegion& region);
  // Its addresses are nothing any more. The numbers of those behind it go down by one.
  void remove(size_t number);
  size_t count() const { return regions_.size(); }
  const MemoryRegion& region(size_t number) const { return regions_[number].at; }
  int fd(size_t number) const { return regions_[number].fd.get(); }

  // Where [guest, guest + size) is mapped here; nullptr unless it is in one region.
  char* at(uint64_t guest, uint64_t size) const;
  // The user address of a guest address; 0 when it is in no region.
  uint64_t user(uint64_t guest) const;

  // Free bytes in a region (any: the first one with room), as a guest address.
  Result<uint64_t> allocate(uint64_t size, uint64_t align = 16, int region = -1);
  void release(uint64_t guest);  // what allocate() returned

  // Outside of the regions, write() does nothing and read() is empty: callers look at at() first.
  void write(uint64_t guest, std::string_view bytes);
  std::string read(uint64_t guest, uint64_t size) const;

 private:
  struct Region {
    MemoryRegion at;
    Fd fd;
    Mapping bytes;
  };
  const Region* find(uint64_t guest, uint64_t size) const;

  std::vector<Region> regions_;
  std::map<uint64_t, uint64_t> taken_;  // guest address to size
};

}  // namespace pv::test::vhost
