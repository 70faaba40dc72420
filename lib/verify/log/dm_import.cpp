// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "base/loop.hpp"
#include "base/rng.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/record/writer.hpp"
#include "verify/log/dm_log.hpp"

namespace pv::verify {
namespace {

using blk::LogEntry;
using blk::LogKind;

class Import {
 public:
  Import(DmReader& log, blk::LogWriter& out, Loop& loop)
      : log_(log), sector_(log.head().sector_size), out_(out), loop_(loop) {}

  Result<Converted> run() {
    DmEntry entry;
    while (true) {
      TRY_ASSIGN(const bool more, log_.next(entry));
      if (!more) break;
      ++converted_.entries;
      TRY(one(entry));
    }
    out_.write_now();
    TRY(check());
    converted_.whole = log_.complete();
    return converted_;
  }

 private:
  // A flush with data comes before its data.
  Result<> one(const DmEntry& entry) {
    if ((entry.flags & k_dm_flush) != 0) TRY(add(LogKind::flush, entry, 0, 0, {}));
    if ((entry.flags & k_dm_mark) != 0) return mark();
    const uint64_t length = entry.sectors * sector_;
    if (length == 0) return {};
    if ((entry.flags & k_dm_discard) != 0) return add(LogKind::discard, entry, 0, length, {});
    for (uint64_t at = 0; at < length; at += data_.size()) {
      data_.resize(std::min(length - at, blk::k_log_max_data));
      TRY(log_.read(log_.data_at() + at, data_.data(), data_.size()));
      TRY(add(LogKind::write, entry, at, data_.size(), data_));
      converted_.data_bytes += data_.size();
    }
    return {};
  }

  Result<> mark() {
    LogEntry entry;
    entry.kind = LogKind::mark;
    entry.n = ++last_;
    ++converted_.marks;
    out_.add(entry, log_.mark().empty() ? "-" : log_.mark());
    return {};
  }

  // The kernel says nothing of times and of failures: each completes at once.
  Result<> add(LogKind kind, const DmEntry& from, uint64_t at, uint64_t length,
               std::string_view data) {
    while (!out_.room(data.size()) && out_.error() == 0) TRY(loop_.run_once(-1));
    TRY(check());
    LogEntry entry;
    entry.kind = kind;
    entry.n = ++last_;
    if ((from.flags & k_dm_fua) != 0) entry.flags |= blk::k_log_fua;
    if ((from.flags & k_dm_meta) != 0) entry.flags |= blk::k_log_metadata;
    entry.offset = kind == LogKind::flush ? 0 : from.sector * sector_ + at;
    entry.length = length;
    out_.add(entry, data);
    LogEntry done;
    done.kind = LogKind::done;
    done.n = last_;
    out_.add(done);
    return {};
  }

  Result<> check() const {
    return out_.error() == 0 ? Result<>() : fail_errno("cannot write the log", out_.error());
  }

  DmReader& log_;
  uint64_t sector_;
  blk::LogWriter& out_;
  Loop& loop_;
  std::string data_;
  uint64_t last_ = 0;
  Converted converted_;
};

Result<Converted> import_into(DmReader& log, Fd fd, const std::string& path, uint64_t size) {
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  TRY_ASSIGN(const std::unique_ptr<blk::AsyncIo> io, blk::AsyncIo::create(*loop));
  const blk::Env env{system_clock(), *loop, loop.get()};
  blk::LogHead head;
  head.id = fresh_seed();
  head.size = size;
  head.sector_size = log.head().sector_size;
  head.began_ns = system_clock().wall_ns();
  char bytes[blk::k_log_head];
  blk::encode_log_head(head, bytes);
  if (pwrite(fd.get(), bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes))
    return fail_errno("cannot write the log " + path, errno);
  blk::LogWriter writer({std::move(fd), path, head}, env, *io, {});
  return Import(log, writer, *loop).run();
}

}  // namespace

Result<Fd> new_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd) return fd;
  if (errno == EEXIST)
    return fail(Code::duplicate_name, path + " exists already; it is not touched");
  return fail_errno("cannot create " + path, errno);
}

Result<Converted> import_dm_log(const std::string& path, const std::string& out, uint64_t size) {
  TRY_ASSIGN(DmReader log, DmReader::open(path));
  if (size % log.head().sector_size != 0)
    return fail(Code::usage, "the size is no multiple of the sector size in the log");
  TRY_ASSIGN(Fd fd, new_file(out));
  auto made = import_into(log, std::move(fd), out, size);
  if (!made) unlink(out.c_str());
  return made;
}

}  // namespace pv::verify
