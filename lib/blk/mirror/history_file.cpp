// SPDX-License-Identifier: MIT
#include "blk/mirror/history_file.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <cerrno>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/file.hpp"

namespace pv::blk {
namespace {

constexpr char k_history_magic[8] = {'P', 'V', 'H', 'I', 'S', 'T', '\0', '\2'};
constexpr uint64_t k_head_bytes = 4096;
constexpr size_t k_boot_id = 36;

struct Head {
  char magic[8];
  uint64_t disk_size;
  uint64_t block;
  char boot_id[40];  // of the machine that has it in use; "" when it was closed in order
  uint32_t broken;   // the errno of an entry that could not be written
  uint32_t reserved;
};

std::string boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id", 64);
  return text ? text->substr(0, k_boot_id) : std::string(k_boot_id, '?');
}

uint64_t file_bytes(uint64_t disk_size) {
  const uint64_t blocks = (disk_size + HistoryFile::k_block - 1) / HistoryFile::k_block;
  return k_head_bytes + blocks * sizeof(HistoryFile::Entry);
}

int transfer(bool out, int fd, void* data, size_t size, off_t at) {
  auto* bytes = static_cast<char*>(data);
  while (size != 0) {
    const ssize_t n = out ? pwrite(fd, bytes, size, at) : pread(fd, bytes, size, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO;  // cut from outside
    bytes += n;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return 0;
}

constexpr uint32_t k_flag_bits = 8;

// Bytes that turned, and entries that lie where they do not belong, do not pass.
uint32_t stamp_of(HistoryFile::Entry entry, uint64_t block) {
  entry.flags &= (1U << k_flag_bits) - 1;
  return static_cast<uint32_t>(XXH3_64bits_withSeed(&entry, sizeof entry, block)) << k_flag_bits |
         entry.flags;
}

bool is_hole(const HistoryFile::Entry& entry) {
  return entry.checksum == 0 && entry.before == 0 && entry.generation == 0 && entry.flags == 0;
}

off_t place(uint64_t block) {
  return static_cast<off_t>(k_head_bytes + block * sizeof(HistoryFile::Entry));
}

}  // namespace

Result<HistoryFile> HistoryFile::open(const std::string& path, uint64_t disk_size) {
  HistoryFile file;
  file.path_ = path;
  file.fd_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.fd_) return fail_errno("cannot open the history " + path, errno);
  if (flock(file.fd_.get(), LOCK_EX | LOCK_NB) < 0)
    return fail(Code::in_use, "the history " + path + " is in use by another disk");
  struct stat st {};
  if (fstat(file.fd_.get(), &st) < 0) return fail_errno("cannot stat " + path, errno);
  if (!S_ISREG(st.st_mode)) return fail(Code::invalid, path + " is no regular file");
  const bool blank = st.st_size == 0;
  if (auto begun = blank ? file.begin(disk_size) : file.take_up(disk_size); !begun) {
    if (blank) unlink(path.c_str());
    return fail(begun.error());
  }
  return file;
}

HistoryFile::~HistoryFile() {
  // One that was refused is somebody else's, and stays as it is.
  if (fd_ && disk_size_ != 0) static_cast<void>(write_head(false));
}

Result<> HistoryFile::begin(uint64_t disk_size) {
  disk_size_ = disk_size;
  if (ftruncate(fd_.get(), 0) < 0 ||
      ftruncate(fd_.get(), static_cast<off_t>(file_bytes(disk_size))) < 0)
    return fail_errno("cannot size the history " + path_, errno);
  return write_head(true);
}

Result<> HistoryFile::take_up(uint64_t disk_size) {
  Head head{};
  struct stat st {};
  const auto damaged = [&](const char* how) {
    return fail(Code::invalid, fmt::format("the history {} is damaged: {}", path_, how));
  };
  if (transfer(false, fd_.get(), &head, sizeof head, 0) != 0 ||
      std::memcmp(head.magic, k_history_magic, sizeof k_history_magic) != 0)
    return fail(Code::invalid, path_ + " is no history of a disk");
  if (head.block != k_block) return damaged("blocks of another size");
  if (head.disk_size != disk_size)
    return fail(Code::incompatible,
                fmt::format("the history {} is of a disk of {} bytes, and this one has {}", path_,
                            head.disk_size, disk_size));
  if (fstat(fd_.get(), &st) < 0 || static_cast<uint64_t>(st.st_size) != file_bytes(disk_size))
    return damaged("it is not as long as it should be");
  const std::string_view used_by(head.boot_id, strnlen(head.boot_id, sizeof head.boot_id));
  if (head.broken != 0)
    return fail(Code::invalid,
                fmt::format("the history {} is broken, an entry could not be written ({}); remove "
                            "it to begin anew",
                            path_, errno_name(static_cast<int>(head.broken & 0xfff))));
  disk_size_ = disk_size;
  if (!used_by.empty() && used_by != boot_id()) {
    forgotten_ = true;
    return begin(disk_size);
  }
  return write_head(true);
}

Result<> HistoryFile::write_head(bool in_use) {
  Head head{};
  std::memcpy(head.magic, k_history_magic, sizeof k_history_magic);
  head.disk_size = disk_size_;
  head.block = k_block;
  head.broken = broken_;
  if (in_use) std::memcpy(head.boot_id, boot_id().data(), k_boot_id);
  // In order: what it says must be true whenever it is there.
  if (!in_use && fdatasync(fd_.get()) < 0) head.broken = static_cast<uint32_t>(errno);
  if (const int error = transfer(true, fd_.get(), &head, sizeof head, 0))
    return fail_errno("cannot write to the history " + path_, error);
  if (in_use && fdatasync(fd_.get()) < 0)
    return fail_errno("cannot write to the history " + path_, errno);
  return {};
}

int HistoryFile::read(uint64_t first, uint64_t count, std::vector<Entry>& entries) {
  entries.resize(count);
  if (const int error =
          transfer(false, fd_.get(), entries.data(), count * sizeof(Entry), place(first)))
    return error;
  for (uint64_t i = 0; i < count; ++i) {
    Entry& entry = entries[i];
    if (is_hole(entry)) continue;
    const bool whole = stamp_of(entry, first + i) == entry.flags;
    damaged_ += whole ? 0 : 1;
    if (!whole) entry = Entry{};
    entry.flags &= (1U << k_flag_bits) - 1;
  }
  return 0;
}

int HistoryFile::write(uint64_t first, const std::vector<Entry>& entries) {
  stamped_ = entries;
  for (uint64_t i = 0; i < stamped_.size(); ++i)
    stamped_[i].flags = stamp_of(stamped_[i], first + i);
  return transfer(true, fd_.get(), stamped_.data(), stamped_.size() * sizeof(Entry), place(first));
}

std::vector<HistoryFile::Known> HistoryFile::sample(size_t count, uint64_t but) {
  std::vector<Known> found;
  const uint64_t blocks = (disk_size_ + k_block - 1) / k_block, damaged = damaged_;
  // Where little is known, what lies close together has to do.
  for (uint64_t step = blocks / count + 1; found.size() < count; step /= 8) {
    found = each_step(step, count, but);
    if (step == 1) break;
    step = std::max<uint64_t>(step, 8);
  }
  damaged_ = damaged;  // they are met again
  return found;
}

// The first such block, and then the first that comes `step` or more after it.
std::vector<HistoryFile::Known> HistoryFile::each_step(uint64_t step, size_t count, uint64_t but) {
  constexpr uint64_t k_at_once = 170;  // a page of them
  constexpr int k_max_reads = 4096;
  std::vector<Known> found;
  std::vector<Entry> entries;
  const uint64_t blocks = (disk_size_ + k_block - 1) / k_block;
  uint64_t next = 0;
  for (int reads = 0; next < blocks && found.size() < count && reads < k_max_reads; ++reads) {
    const off_t data = lseek(fd_.get(), place(next), SEEK_DATA);
    if (data < 0) break;
    const uint64_t first =
        std::max(next, (static_cast<uint64_t>(data) - k_head_bytes) / sizeof(Entry));
    const uint64_t here = std::min(k_at_once, blocks - first);
    if (here == 0 || read(first, here, entries) != 0) break;
    const auto known = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
      return entry.generation != 0 && entry.flags == 0 && entry.checksum != but;
    });
    next = first + static_cast<uint64_t>(known - entries.begin());
    if (known == entries.end()) continue;
    found.emplace_back(next, *known);
    next += step;
  }
  return found;
}

void HistoryFile::set_broken(int error) {
  broken_ = static_cast<uint32_t>(error);
  static_cast<void>(write_head(true));  // its room was there before
}

int HistoryFile::sync() {
  return fdatasync(fd_.get()) < 0 ? errno : 0;
}

Result<> HistoryFile::resize(uint64_t disk_size) {
  if (ftruncate(fd_.get(), static_cast<off_t>(file_bytes(disk_size))) < 0)
    return fail_errno("cannot size the history " + path_, errno);
  disk_size_ = disk_size;
  return write_head(true);
}

}  // namespace pv::blk
