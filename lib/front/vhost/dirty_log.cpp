// SPDX-License-Identifier: MIT
#include "front/vhost/dirty_log.hpp"

#include <cerrno>
#include <sys/mman.h>
#include <sys/stat.h>

#include "front/vhost/bus_guard.hpp"

namespace pv::vhost {

namespace {
constexpr uint64_t k_page = 4096;
constexpr uint64_t k_dirty_log_max_bytes = 1ULL << 32;  // of a log: 128 TiB of memory
}  // namespace

Result<std::unique_ptr<DirtyLog>> DirtyLog::map(const LogArea& area, const Fd& fd) {
  struct stat file {};
  if (!fd || fstat(fd.get(), &file) != 0 || area.size == 0 || area.size > k_dirty_log_max_bytes ||
      area.offset > k_dirty_log_max_bytes ||
      static_cast<uint64_t>(file.st_size) < area.size + area.offset)
    return fail(Code::invalid, "a log of dirty pages that is none");
  const size_t end = area.size + area.offset;
  void* at = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail_errno("cannot map the log of dirty pages", errno);
  auto* mapping = static_cast<char*>(at);
  return std::unique_ptr<DirtyLog>(
      new DirtyLog(mapping, end, area.offset, guard_against_bus_errors(mapping, end)));
}

DirtyLog::~DirtyLog() {
  end_guard(guard_);
  munmap(mapping_, mapped_);
}

void DirtyLog::mark(uint64_t guest, uint64_t length) {
  if (length == 0) return;
  const uint64_t bits = (mapped_ - offset_) * 8;
  for (uint64_t page = guest / k_page; page <= (guest + length - 1) / k_page && page < bits; ++page)
    __atomic_fetch_or(mapping_ + offset_ + page / 8, static_cast<char>(1 << page % 8),
                      __ATOMIC_RELAXED);
}

}  // namespace pv::vhost
