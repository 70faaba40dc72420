// SPDX-License-Identifier: MIT
#include "blk/record/reader.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pv::blk {

Result<LogReader> LogReader::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd)
    return fail(Code::invalid, "cannot open the log " + path + ": " + strerrordesc_np(errno),
                errno);
  return open(std::move(fd), path);
}

Result<LogReader> LogReader::open(Fd fd, const std::string& name) {
  struct stat st {};
  if (fstat(fd.get(), &st) < 0) return fail_errno("cannot stat " + name, errno);
  if (!S_ISREG(st.st_mode)) return fail(Code::invalid, name + " is no regular file");
  LogReader reader(std::move(fd), name);
  char bytes[k_log_head];
  TRY_ASSIGN(const size_t count, reader.read_some(0, bytes, sizeof bytes));
  if (count < sizeof bytes || !decode_log_head(bytes, reader.head_))
    return fail(Code::invalid, name + " is no write log (or its head is damaged)");
  return reader;
}

Result<size_t> LogReader::read_some(uint64_t from, char* to, size_t count) const {
  size_t have = 0;
  while (have < count) {
    const ssize_t n = pread(fd_.get(), to + have, count - have, static_cast<off_t>(from + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read " + name_, errno);
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  return have;
}

Result<> LogReader::read(uint64_t from, char* to, size_t count) const {
  TRY_ASSIGN(const size_t have, read_some(from, to, count));
  if (have == count) return {};
  return fail(Code::invalid, name_ + " has become shorter while it was read");
}

// Numbers have no gaps, and what completes was submitted before.
bool LogReader::follows(const LogEntry& entry) const {
  return entry.kind == LogKind::done ? entry.n <= last_ : entry.n == last_ + 1;
}

Result<std::optional<LogEntry>> LogReader::next() {
  char bytes[k_log_entry];
  LogEntry entry;
  TRY_ASSIGN(const size_t have, read_some(at_, bytes, sizeof bytes));
  if (have < sizeof bytes || !decode_log_entry(bytes, head_.id, at_, entry) || !follows(entry))
    return std::nullopt;
  // Not before the file is known to be that long: a number alone makes no memory.
  struct stat st {};
  if (fstat(fd_.get(), &st) < 0) return fail_errno("cannot stat " + name_, errno);
  if (static_cast<uint64_t>(st.st_size) < at_ + entry.room()) return std::nullopt;
  data_at_ = at_ + k_log_entry;
  data_.resize(entry.data_len);
  TRY_ASSIGN(const size_t data, read_some(data_at_, data_.data(), data_.size()));
  if (data < data_.size() || (!data_.empty() && log_hash(data_) != entry.hash)) return std::nullopt;
  at_ += entry.room();
  if (entry.kind == LogKind::session && (entry.flags & k_log_gap) != 0) ++gaps_;
  if (entry.kind != LogKind::done) last_ = entry.n;
  return entry;
}

Result<LogEnd> LogReader::end() const {
  struct stat st {};
  if (fstat(fd_.get(), &st) < 0) return fail_errno("cannot stat " + name_, errno);
  const auto size = static_cast<uint64_t>(st.st_size);
  LogEnd end{head_.state, head_.error, at_, size - std::min(size, at_), gaps_};
  // One that was closed in order has all its entries: what is missing was damaged since.
  if (end.state == LogHead::closed && (at_ < head_.end || end.unused_bytes != 0)) {
    end.state = LogHead::broken;
    end.error = EILSEQ;
  }
  end.whole = end.state != LogHead::broken && end.unused_bytes == 0;
  return end;
}

}  // namespace pv::blk
