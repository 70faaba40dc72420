// SPDX-License-Identifier: MIT
#include "blk/record/open.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "blk/cow/base.hpp"
#include "blk/image_lock.hpp"
#include "blk/record/reader.hpp"

namespace pv::blk {
namespace {

Result<Fd> open_file(const std::string& path, bool append, bool& blank) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd && errno == EISDIR) return fail(Code::invalid, "the log " + path + " is a directory");
  if (!fd) return fail_errno("cannot open the log " + path, errno);
  struct stat st {};
  if (fstat(fd.get(), &st) < 0) return fail_errno("cannot stat the log " + path, errno);
  if (!S_ISREG(st.st_mode)) return fail(Code::invalid, "the log " + path + " is no regular file");
  if (auto locked = lock_image(fd.get(), false, path); !locked) {
    Error error = locked.error();
    error.message = "the log " + path + " is in use by another disk server";
    return fail(std::move(error));
  }
  blank = st.st_size == 0;
  if (blank || append) return fd;
  return fail(Code::duplicate_name,
              path + " exists already; it is not touched (append=yes goes on with a log)");
}

Result<OpenedLog> begin_log(Fd fd, const std::string& path, Disk& disk, const Env& env) {
  const Geometry& geometry = disk.geometry();
  TRY_ASSIGN(const BaseIdentity now, look_at_base(disk, env.loop));
  LogHead head;
  head.id = mix(env.seed, env.clock.now_ns());
  head.size = geometry.size;
  head.sector_size = geometry.sector_size;
  head.disk = geometry.id;
  head.discard = geometry.discard;
  head.edges = now.edges;
  head.knows_edges = true;
  head.began_ns = env.clock.wall_ns();
  char bytes[k_log_head];
  encode_log_head(head, bytes);
  if (pwrite(fd.get(), bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes))
    return fail_errno("cannot write the log " + path, errno);
  return OpenedLog{{std::move(fd), path, head}};
}

// The same disk as the one that the log is of?
Result<> check_disk(const LogHead& head, uint64_t size, const std::string& path, Disk& disk,
                    const Env& env) {
  const Geometry& geometry = disk.geometry();
  if (size != geometry.size || head.sector_size != geometry.sector_size || head.disk != geometry.id)
    return fail(Code::incompatible,
                fmt::format("the log {} is of another disk: of {} bytes in sectors of {}", path,
                            size, head.sector_size));
  if (!head.knows_last_edges) return {};
  TRY_ASSIGN(const BaseIdentity now, look_at_base(disk, env.loop));
  if (now.edges == head.last_edges) return {};
  return fail(Code::incompatible,
              fmt::format("the log {} is of another disk, or of this one before somebody else "
                          "changed it: its first or last 64 KiB differ",
                          path));
}

// Behind the last good entry of what is there; what was cut off is cut off for good.
Result<OpenedLog> continue_log(Fd fd, const std::string& path, Disk& disk, const Env& env) {
  Fd again(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!again) return fail_errno("cannot open the log " + path, errno);
  TRY_ASSIGN(LogReader reader, LogReader::open(std::move(again), path));
  LogHead head = reader.head();
  // To go on would make one that looks whole of a log in which requests are known to be missing.
  if (head.state == LogHead::broken)
    return fail(
        Code::invalid,
        fmt::format("the log {} is broken ({}): requests are missing, and more of them would "
                    "not make it good",
                    path, errno_name(static_cast<int>(head.error))));
  uint64_t size = head.size;
  while (true) {
    TRY_ASSIGN(const std::optional<LogEntry> entry, reader.next());
    if (!entry) break;
    if (entry->kind == LogKind::resize) size = entry->length;
  }
  TRY(check_disk(head, size, path, disk, env));
  TRY_ASSIGN(const LogEnd end, reader.end());
  if (head.state == LogHead::closed && reader.used() < head.end)
    return fail(Code::invalid,
                fmt::format("the log {} was closed in order and is damaged behind its first {} "
                            "bytes: to go on there would throw the rest away",
                            path, reader.used()));
  const bool gap = !end.whole || head.state != LogHead::closed || !head.knows_last_edges;
  if (ftruncate(fd.get(), static_cast<off_t>(reader.used())) < 0)
    return fail_errno("cannot cut the log " + path, errno);
  head.state = LogHead::recording;
  head.error = 0;
  head.knows_last_edges = false;
  char bytes[k_log_head];
  encode_log_head(head, bytes);
  if (pwrite(fd.get(), bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes))
    return fail_errno("cannot write the log " + path, errno);
  return OpenedLog{{std::move(fd), path, head, end.used_bytes}, reader.last(), true, gap};
}

}  // namespace

Result<OpenedLog> open_log(const std::string& path, bool append, Disk& disk, const Env& env) {
  bool blank = false;
  TRY_ASSIGN(Fd fd, open_file(path, append, blank));
  auto opened = blank ? begin_log(std::move(fd), path, disk, env)
                      : continue_log(std::move(fd), path, disk, env);
  if (!opened && blank) unlink(path.c_str());
  return opened;
}

}  // namespace pv::blk
