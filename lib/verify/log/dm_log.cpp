// SPDX-License-Identifier: MIT
#include "verify/log/dm_log.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pv::verify {

Result<DmReader> DmReader::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd)
    return fail(Code::invalid, "cannot open the log " + path + ": " + strerrordesc_np(errno),
                errno);
  return open(std::move(fd), path);
}

// A device has its log at its beginning, too.
Result<DmReader> DmReader::open(Fd fd, const std::string& name) {
  DmReader reader(std::move(fd), name);
  const off_t end = lseek(reader.fd_.get(), 0, SEEK_END);
  char bytes[k_dm_head];
  if (end < static_cast<off_t>(sizeof bytes) ||
      pread(reader.fd_.get(), bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes) ||
      !decode_dm_head(bytes, reader.head_))
    return fail(Code::invalid, name + " is no log of dm-log-writes, version 1");
  reader.size_ = static_cast<uint64_t>(end);
  reader.at_ = reader.head_.sector_size;
  reader.sector_.resize(reader.head_.sector_size);
  return reader;
}

Result<> DmReader::read(uint64_t from, char* to, size_t count) const {
  for (size_t have = 0; have < count;) {
    const ssize_t n = pread(fd_.get(), to + have, count - have, static_cast<off_t>(from + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read " + name_, errno);
    if (n == 0) return fail(Code::invalid, name_ + " has become shorter while it was read");
    have += static_cast<size_t>(n);
  }
  return {};
}

Result<bool> DmReader::next(DmEntry& entry) {
  const uint64_t sector = head_.sector_size;
  if (entries_ == head_.entries || at_ > size_ || size_ - at_ < sector) return false;
  TRY(read(at_, sector_.data(), sector));
  if (!decode_dm_entry(sector_.data(), head_.sector_size, entry)) return false;
  const uint64_t data = entry.has_data() ? entry.sectors * sector : 0;
  if (data > size_ - at_ - sector) return false;
  mark_ = (entry.flags & k_dm_mark) != 0 ? sector_.substr(k_dm_entry, entry.data_len) : "";
  data_at_ = at_ + sector;
  at_ = data_at_ + data;
  ++entries_;
  return true;
}

}  // namespace pv::verify
