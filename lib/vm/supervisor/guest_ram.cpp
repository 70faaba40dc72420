// SPDX-License-Identifier: MIT
#include "vm/supervisor/guest_ram.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_page = 4096;
constexpr size_t k_window = 16 << 20;  // of what is mapped or read at a time
constexpr size_t k_max_maps = 4 << 20;
// Bits of a page in /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t k_present = uint64_t{1} << 63, k_swapped = uint64_t{1} << 62;
constexpr uint64_t k_of_file = uint64_t{1} << 61;

Result<> write_at(int file, const char* data, size_t size, uint64_t offset) {
  while (size > 0) {
    const ssize_t n = pwrite(file, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail_errno("cannot write the guest's memory", n < 0 ? errno : EIO);
    data += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return {};
}

// A process that has just been killed has no memory any more, in one of several ways.
tl::unexpected<Error> unreadable(const char* what, int error) {
  if (error == ESRCH || error == EIO || error == ENOENT)
    return fail(Code::guest_died, fmt::format("QEMU has ended: its {} is gone", what));
  return fail_errno(fmt::format("cannot read QEMU's {}", what), error);
}

bool is_zero(const char* page) {
  return *page == 0 && std::memcmp(page, page + 1, k_page - 1) == 0;
}

// The pages of `bytes` that are not zero, in runs.
Result<> write_pages(int file, const char* bytes, size_t size, uint64_t offset) {
  for (size_t at = 0; at < size;) {
    size_t run = at;
    while (run < size && !is_zero(bytes + run)) run += k_page;
    if (run > at) TRY(write_at(file, bytes + at, run - at, offset + at));
    at = std::max(run, at + k_page);
  }
  return {};
}

struct Mapping {
  uint64_t start, end, offset;
};

// Where QEMU has mapped the file.
Result<std::vector<Mapping>> mappings(pid_t qemu, int file) {
  struct stat st {};
  if (fstat(file, &st) < 0) return fail_errno("fstat", errno);
  const auto text = read_file(fmt::format("/proc/{}/maps", qemu), k_max_maps);
  if (!text || text->empty()) return unreadable("memory", text ? ESRCH : text.error().sys_errno);
  std::vector<Mapping> found;
  for (const std::string& line : split(*text, '\n')) {
    Mapping m{};
    unsigned major_nr = 0, minor_nr = 0;
    unsigned long inode = 0;
    const int fields = std::sscanf(line.c_str(), "%lx-%lx %*s %lx %x:%x %lu", &m.start, &m.end,
                                   &m.offset, &major_nr, &minor_nr, &inode);
    if (fields == 6 && inode == st.st_ino && makedev(major_nr, minor_nr) == st.st_dev)
      found.push_back(m);
  }
  if (found.empty())  // its arguments can name other memory
    return fail(Code::unsupported, "the guest's memory is not one that a snapshot can take");
  return found;
}

}  // namespace

Result<> GuestRam::prepare(int file, uint64_t size) const {
  if (is_mapped()) return copy_sparse(memory_.get(), file);
  if (ftruncate(file, static_cast<off_t>(size)) < 0)
    return fail_errno("cannot size the guest's memory", errno);
  return {};
}

Result<> GuestRam::save(int file) const {
  return is_mapped() ? save_changed(file) : save_shared(file);
}

Result<> GuestRam::save_shared(int file) const {
  TRY(mappings(qemu_, memory_.get()));
  struct stat st {};
  if (fstat(memory_.get(), &st) < 0) return fail_errno("fstat", errno);
  for (off_t at = 0; at < st.st_size;) {
    const off_t data = lseek(memory_.get(), at, SEEK_DATA);
    if (data < 0) break;  // the guest never touched the rest
    const off_t hole = lseek(memory_.get(), data, SEEK_HOLE);
    const off_t end = std::min<off_t>(hole, data + static_cast<off_t>(k_window));
    const auto length = static_cast<size_t>(end - data);
    void* bytes = mmap(nullptr, length, PROT_READ, MAP_SHARED, memory_.get(), data);
    if (bytes == MAP_FAILED) return fail_errno("cannot map the guest's memory", errno);
    DEFER(munmap(bytes, length));
    TRY(write_pages(file, static_cast<const char*>(bytes), length, static_cast<uint64_t>(data)));
    at = end;
  }
  return {};
}

// A page of a private mapping that is in memory, or in swap, and no page of the file any more is
// the guest's own.
Result<> GuestRam::save_changed(int file) const {
  TRY_ASSIGN(const std::vector<Mapping> maps, mappings(qemu_, memory_.get()));
  const Fd flags(open(fmt::format("/proc/{}/pagemap", qemu_).c_str(), O_RDONLY | O_CLOEXEC));
  const Fd memory(open(fmt::format("/proc/{}/mem", qemu_).c_str(), O_RDONLY | O_CLOEXEC));
  if (!flags || !memory) return unreadable("memory", errno);
  std::vector<uint64_t> entries(k_window / k_page);
  std::vector<char> bytes(1 << 20);
  const auto changed = [](uint64_t entry) {
    return (entry & (k_present | k_swapped)) != 0 && (entry & k_of_file) == 0;
  };
  for (const Mapping& m : maps) {
    for (uint64_t at = m.start; at < m.end;) {
      const size_t pages = std::min<uint64_t>(entries.size(), (m.end - at) / k_page);
      const ssize_t n = pread(flags.get(), entries.data(), pages * sizeof(uint64_t),
                              static_cast<off_t>(at / k_page * sizeof(uint64_t)));
      if (n != static_cast<ssize_t>(pages * sizeof(uint64_t)))
        return unreadable("page map", n < 0 ? errno : ESRCH);
      for (size_t page = 0; page < pages;) {
        size_t run = page;
        while (run < pages && (run - page) * k_page < bytes.size() && changed(entries[run])) ++run;
        const size_t length = (run - page) * k_page;
        const uint64_t address = at + page * k_page;
        if (length > 0 && pread(memory.get(), bytes.data(), length, static_cast<off_t>(address)) !=
                              static_cast<ssize_t>(length))
          return unreadable("memory", errno);
        TRY(write_at(file, bytes.data(), length, address - m.start + m.offset));
        page = std::max(run, page + 1);
      }
      at += pages * k_page;
    }
  }
  return {};
}

}  // namespace pv::vm
