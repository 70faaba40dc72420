// SPDX-License-Identifier: MIT
#include "base/file.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <linux/fs.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "base/defer.hpp"

namespace pv {

Result<std::string> read_all(int fd, size_t max_bytes, std::string_view name,
                             const Deadline& deadline) {
  std::string data;
  char buffer[65536];
  pollfd waiting{fd, POLLIN, 0};
  while (true) {
    const int ready = poll(&waiting, 1, deadline.left_ms());
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return fail(Code::timeout, fmt::format("{} does not end in time", name));
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return fail_errno(fmt::format("cannot read {}", name), errno);
    if (n == 0) return data;
    data.append(buffer, static_cast<size_t>(n));
    if (data.size() > max_bytes)
      return fail(Code::invalid, fmt::format("{} is larger than {} bytes", name, max_bytes));
  }
}

Result<std::string> read_file(const std::string& path, size_t max_bytes) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + path, errno);
  return read_all(fd.get(), max_bytes, path);
}

std::string tail_of_file(const std::string& path, size_t max_bytes) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  const off_t size = lseek(fd.get(), 0, SEEK_END);
  const off_t from =
      size > static_cast<off_t>(max_bytes) ? size - static_cast<off_t>(max_bytes) : 0;
  std::string data(static_cast<size_t>(size - from), '\0');
  const ssize_t n = pread(fd.get(), data.data(), data.size(), from);
  data.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return data;
}

Result<> write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {  // a parent has made it non-blocking, for both of us
      pollfd waiting{fd, POLLOUT, 0};
      poll(&waiting, 1, -1);
      continue;
    }
    if (n < 0) return fail_errno("write", errno);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<> write_file_atomic(const std::string& path, std::string_view data, int mode) {
  const std::string temp = fmt::format("{}.tmp.{}", path, getpid());
  Fd fd(open(temp.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
             static_cast<mode_t>(mode)));
  if (!fd) return fail_errno("cannot create " + temp, errno);
  Deferred remove_temp([&] { unlink(temp.c_str()); });
  if (auto written = write_all(fd.get(), data); !written)
    return fail_errno("cannot write " + path, written.error().sys_errno);
  if (rename(temp.c_str(), path.c_str()) < 0) return fail_errno("cannot replace " + path, errno);
  remove_temp.cancel();
  return {};
}

Result<> make_dir(const std::string& path, int mode) {
  if (mkdir(path.c_str(), static_cast<mode_t>(mode)) == 0) return {};
  const int err = errno;
  struct stat st {};
  if (err == EEXIST && stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
  return fail_errno("cannot create directory " + path, err);
}

Result<> make_dirs(const std::string& path, int mode) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1))
    TRY(make_dir(path.substr(0, slash), mode));
  return make_dir(path, mode);
}

void remove_tree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  auto absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

// Within one file system the kernel copies by itself; across two it may refuse (EXDEV).
Result<> copy_range(int from, int to, off_t begin, off_t end) {
  loff_t in = begin, out = begin;
  bool by_kernel = true;
  std::vector<char> piece;
  while (in < end) {
    const auto left = static_cast<size_t>(end - in);
    ssize_t n = by_kernel ? copy_file_range(from, &in, to, &out, left, 0) : 0;
    if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS))
      by_kernel = false;
    if (n < 0 && by_kernel && errno != EINTR) return fail_errno("cannot copy", errno);
    if (n == 0 && by_kernel) return {};  // cut meanwhile
    if (by_kernel) continue;
    piece.resize(1 << 20);
    n = pread(from, piece.data(), std::min(left, piece.size()), in);
    if (n == 0) return {};
    if (n > 0) n = pwrite(to, piece.data(), static_cast<size_t>(n), in);
    if (n < 0 && errno != EINTR) return fail_errno("cannot copy", errno);
    in += std::max<ssize_t>(n, 0);
  }
  return {};
}

Result<> copy_sparse(int from, int to) {
  if (ioctl(to, FICLONE, from) == 0) return {};
  struct stat st {};
  if (fstat(from, &st) < 0) return fail_errno("fstat", errno);
  if (ftruncate(to, st.st_size) < 0) return fail_errno("ftruncate", errno);
  off_t at = 0;
  while (at < st.st_size) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    off_t hole = data < 0 ? st.st_size : lseek(from, data, SEEK_HOLE);
    if (data < 0) data = at;  // a file system without SEEK_DATA: all is data
    if (hole < 0) hole = st.st_size;
    TRY(copy_range(from, to, data, hole));
    at = hole;
  }
  return {};
}

Result<LockFile> LockFile::acquire(const std::string& path, const Deadline& deadline,
                                   std::string_view what) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("cannot open lock " + path, errno);
  uint64_t pause_ns = 200'000;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno("cannot lock " + path, errno);
    if (deadline.passed())
      return fail(Code::timeout, fmt::format("{} is busy: another command holds its lock", what));
    sleep_ns(pause_ns);
    pause_ns = std::min<uint64_t>(pause_ns * 2, 10 * k_ns_per_ms);
  }
  return LockFile(std::move(fd));
}

}  // namespace pv
