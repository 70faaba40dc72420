// SPDX-License-Identifier: MIT
#include "front/vhost/memory.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/mman.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "front/vhost/bus_guard.hpp"

namespace pv::vhost {
namespace {

constexpr uint64_t k_memory_max_bytes = 1ULL << 46;

bool ends_in(uint64_t start, uint64_t length, uint64_t limit) {
  return length <= limit && start <= limit - length;
}

bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

bool is_same(const MemRegion& a, const MemRegion& b) {
  return a.guest == b.guest && a.size == b.size && a.user == b.user;
}

}  // namespace

Result<std::shared_ptr<const Region>> Region::map(const MemRegion& about, const Fd& fd) {
  const auto refuse = [&](const char* why) {
    return fail(Code::invalid, fmt::format("a memory region of {:#x} bytes at {:#x} that {}",
                                           about.size, about.guest, why));
  };
  if (!fd) return refuse("comes without a file");
  if (about.size == 0) return refuse("is empty");
  if (!ends_in(about.guest, about.size, UINT64_MAX) || !ends_in(about.user, about.size, UINT64_MAX))
    return refuse("wraps around");
  if (!ends_in(about.mmap_offset, about.size, k_memory_max_bytes)) return refuse("is too large");
  struct stat file {};
  const uint64_t end = about.mmap_offset + about.size;
  if (fstat(fd.get(), &file) != 0 || static_cast<uint64_t>(file.st_size) < end)
    return refuse("lies beyond its file");
  // From the start of the file: where pages are huge, not every offset can be mapped.
  void* at = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (at == MAP_FAILED) return fail_errno("cannot map the guest's memory", errno);
  madvise(at, end, MADV_DONTDUMP);
  return std::shared_ptr<const Region>(new Region(about, static_cast<char*>(at), end));
}

Region::Region(const MemRegion& about, char* mapping, size_t mapped)
    : about_(about),
      base_(mapping + about.mmap_offset),
      mapping_(mapping),
      mapped_(mapped),
      guard_(guard_against_bus_errors(mapping, mapped)) {}

Region::~Region() {
  end_guard(guard_);
  munmap(mapping_, mapped_);
}

std::shared_ptr<const Memory> Memory::with(std::shared_ptr<const Region> region) const {
  const MemRegion& added = region->about();
  const bool clash = std::any_of(regions_.begin(), regions_.end(), [&](const auto& other) {
    const MemRegion& there = other->about();
    return overlap(there.guest, there.size, added.guest, added.size) ||
           overlap(there.user, there.size, added.user, added.size);
  });
  if (clash || regions_.size() >= k_max_slots) return nullptr;
  auto more = std::make_shared<Memory>(*this);
  more->regions_.push_back(std::move(region));
  return more;
}

std::shared_ptr<const Memory> Memory::without(const MemRegion& about) const {
  const auto found = std::find_if(regions_.begin(), regions_.end(),
                                  [&](const auto& r) { return is_same(r->about(), about); });
  if (found == regions_.end()) return nullptr;
  auto fewer = std::make_shared<Memory>(*this);
  fewer->regions_.erase(fewer->regions_.begin() + (found - regions_.begin()));
  fewer->last_ = 0;
  return fewer;
}

const Region* Memory::region_of(uint64_t guest) const {
  const auto holds = [&](size_t i) {
    const MemRegion& about = regions_[i]->about();
    return guest >= about.guest && guest - about.guest < about.size;
  };
  if (last_ < regions_.size() && holds(last_)) return regions_[last_].get();
  for (size_t i = 0; i < regions_.size(); ++i)
    if (holds(i)) {
      last_ = i;
      return regions_[i].get();
    }
  return nullptr;
}

bool Memory::find(uint64_t guest, uint64_t length, std::vector<iovec>& pieces) const {
  if (!ends_in(guest, length, UINT64_MAX)) return false;
  while (length != 0) {
    const Region* region = region_of(guest);
    if (region == nullptr) return false;
    const uint64_t into = guest - region->about().guest;
    const uint64_t n = std::min(length, region->about().size - into);
    pieces.push_back({region->base() + into, n});
    guest += n;
    length -= n;
  }
  return true;
}

char* Memory::find(uint64_t guest, uint64_t length) const {
  const Region* region = region_of(guest);
  if (region == nullptr) return nullptr;
  const uint64_t into = guest - region->about().guest;
  return length <= region->about().size - into ? region->base() + into : nullptr;
}

char* Memory::find_user(uint64_t user, uint64_t length) const {
  for (const auto& region : regions_) {
    const MemRegion& about = region->about();
    if (user < about.user || user - about.user >= about.size) continue;
    const uint64_t into = user - about.user;
    return length <= about.size - into ? region->base() + into : nullptr;
  }
  return nullptr;
}

uint64_t Memory::guest_address(const void* at) const {
  for (const auto& region : regions_) {
    const auto* p = static_cast<const char*>(at);
    if (p >= region->base() && p < region->base() + region->about().size)
      return region->about().guest + static_cast<uint64_t>(p - region->base());
  }
  return 0;
}

}  // namespace pv::vhost
