// SPDX-License-Identifier: MIT
#include "memory.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

#include <fmt/format.h>

namespace pv::test::vhost {

std::vector<MemoryRegion> default_regions(uint64_t size_each) {
  return {{0x100000, size_each, 0x510000000000, 0},
          {0x100000000, size_each, 0x520000400000, 0x10000}};
}

Result<Mapping> Mapping::make(int fd, uint64_t size, uint64_t offset) {
  void* mapped =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return fail_errno("mmap", errno);
  Mapping made;
  made.base_ = static_cast<char*>(mapped);
  made.size_ = size;
  return made;
}

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, size_);
}

Result<Fd> make_memfd(const char* name, uint64_t size) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create", errno);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) < 0) return fail_errno("ftruncate", errno);
  return fd;
}

Result<Memory> Memory::make(const std::vector<MemoryRegion>& regions) {
  Memory memory;
  for (const MemoryRegion& region : regions) {
    TRY_ASSIGN([[maybe_unused]] const size_t number, memory.add(region));
  }
  return memory;
}

Result<size_t> Memory::add(const MemoryRegion& region) {
  TRY_ASSIGN(Fd fd, make_memfd("pv-guest", region.mmap_offset + region.size));
  TRY_ASSIGN(Mapping bytes, Mapping::make(fd.get(), region.size, region.mmap_offset));
  regions_.push_back({region, std::move(fd), std::move(bytes)});
  return regions_.size() - 1;
}

void Memory::remove(size_t number) {
  const MemoryRegion at = regions_[number].at;
  regions_.erase(regions_.begin() + static_cast<ptrdiff_t>(number));
  taken_.erase(taken_.lower_bound(at.guest), taken_.lower_bound(at.guest + at.size));
}

const Memory::Region* Memory::find(uint64_t guest, uint64_t size) const {
  for (const Region& region : regions_) {
    if (guest < region.at.guest || guest - region.at.guest > region.at.size) continue;
    if (size <= region.at.size - (guest - region.at.guest)) return &region;
  }
  return nullptr;
}

char* Memory::at(uint64_t guest, uint64_t size) const {
  const Region* region = find(guest, size);
  return region == nullptr ? nullptr : region->bytes.data() + (guest - region->at.guest);
}

uint64_t Memory::user(uint64_t guest) const {
  const Region* region = find(guest, 1);
  return region == nullptr ? 0 : region->at.user + (guest - region->at.guest);
}

Result<uint64_t> Memory::allocate(uint64_t size, uint64_t align, int region) {
  size = std::max<uint64_t>(size, 1);  // also no bytes have a place of their own
  for (size_t number = 0; number < regions_.size(); ++number) {
    if (region >= 0 && number != static_cast<size_t>(region)) continue;
    const MemoryRegion& at = regions_[number].at;
    const auto aligned = [align](uint64_t address) {
      return (address + align - 1) / align * align;
    };
    uint64_t begin = aligned(at.guest);
    for (auto next = taken_.lower_bound(at.guest);
         next != taken_.end() && next->first < at.guest + at.size; ++next) {
      if (begin + size <= next->first) break;
      begin = aligned(next->first + next->second);
    }
    if (begin + size > at.guest + at.size) continue;
    taken_[begin] = size;
    return begin;
  }
  return fail(Code::out_of_range, fmt::format("no {} bytes of guest memory are free", size));
}

void Memory::release(uint64_t guest) {
  taken_.erase(guest);
}

void Memory::write(uint64_t guest, std::string_view bytes) {
  if (char* to = at(guest, bytes.size())) std::memcpy(to, bytes.data(), bytes.size());
}

std::string Memory::read(uint64_t guest, uint64_t size) const {
  const char* from = at(guest, size);
  return from == nullptr ? std::string() : std::string(from, size);
}

}  // namespace pv::test::vhost
