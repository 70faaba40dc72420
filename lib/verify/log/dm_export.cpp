// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "verify/log/dm_log.hpp"
#include "verify/log/requests.hpp"

namespace pv::verify {
namespace {

using blk::LogKind;

// Replay tools put no more zeroes than this in the place of one discard.
constexpr uint64_t k_max_discard = 128 << 20;
constexpr uint64_t k_max_data = 32 << 20;  // of one entry of zeroes

// Appends entries. Zeroes are left as holes.
class DmWriter {
 public:
  DmWriter(int fd, uint32_t sector_size) : fd_(fd), sector_(sector_size), at_(sector_size) {}

  // `data` null: zeroes.
  Result<> add(const DmEntry& entry, const std::string* data) {
    std::string head(sector_, '\0');
    encode_dm_entry(entry, head.data());
    if ((entry.flags & k_dm_mark) != 0) head.replace(k_dm_entry, data->size(), *data);
    TRY(put(at_, head));
    at_ += sector_;
    ++entries_;
    if ((entry.flags & (k_dm_mark | k_dm_discard)) != 0) return {};
    if (data != nullptr) TRY(put(at_, *data));
    at_ += entry.sectors * sector_;
    return {};
  }

  Result<> finish() {
    std::string head(sector_, '\0');
    encode_dm_head({entries_, sector_}, head.data());
    if (ftruncate(fd_, static_cast<off_t>(at_)) < 0)
      return fail_errno("cannot size the log", errno);
    return put(0, head);
  }

  uint64_t entries() const { return entries_; }

 private:
  Result<> put(uint64_t at, const std::string& bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n =
          pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return fail_errno("cannot write the log", n < 0 ? errno : EIO);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  int fd_;
  uint32_t sector_;
  uint64_t at_, entries_ = 0;
};

class Export {
 public:
  Export(blk::LogReader log, int out)
      : requests_(std::move(log)),
        sector_(requests_.reader().head().sector_size),
        out_(out, sector_) {}

  Result<Converted> run() {
    std::string last_mark;
    while (true) {
      TRY_ASSIGN(const std::optional<Logged> request, requests_.next());
      if (!request) break;
      TRY(one(*request));
      last_mark = request->mark;
    }
    if (last_mark != k_dm_end_mark) TRY(mark(k_dm_end_mark));
    TRY(out_.finish());
    converted_.entries = out_.entries();
    TRY_ASSIGN(converted_.end, requests_.reader().end());
    converted_.whole = converted_.end.whole;
    converted_.left_out = requests_.left_out();
    return converted_;
  }

 private:
  Result<> one(const Logged& request) {
    const blk::LogEntry& entry = request.entry;
    uint64_t flags = (entry.flags & blk::k_log_fua) != 0 ? k_dm_fua : 0;
    if ((entry.flags & blk::k_log_metadata) != 0) flags |= k_dm_meta;
    switch (entry.kind) {
      case LogKind::write: {
        std::string data(entry.data_len, '\0');
        TRY(requests_.reader().read(request.data_at, data.data(), data.size()));
        converted_.data_bytes += data.size();
        return out_.add({entry.offset / sector_, entry.length / sector_, flags, 0}, &data);
      }
      case LogKind::zero:
        return pieces(entry, flags, k_max_data);
      case LogKind::discard:
        return pieces(entry, k_dm_discard, k_max_discard);
      case LogKind::flush:
        return out_.add({0, 0, k_dm_flush, 0}, nullptr);
      case LogKind::mark:
        return mark(request.mark);
      case LogKind::resize:  // the kernel's disks do not change
      case LogKind::session:
      case LogKind::done:
        return {};
    }
    return {};
  }

  Result<> pieces(const blk::LogEntry& entry, uint64_t flags, uint64_t max) {
    for (uint64_t at = 0; at < entry.length; at += max)
      TRY(out_.add(
          {(entry.offset + at) / sector_, std::min(max, entry.length - at) / sector_, flags, 0},
          nullptr));
    return {};
  }

  Result<> mark(std::string text) {
    text.resize(std::min<size_t>(text.size(), sector_ - k_dm_entry - 1));
    ++converted_.marks;
    return out_.add({0, 0, k_dm_mark, text.size()}, &text);
  }

  LastingRequests requests_;
  uint32_t sector_;
  DmWriter out_;
  Converted converted_;
};

}  // namespace

Result<Converted> export_dm_log(const std::string& log, const std::string& out) {
  TRY_ASSIGN(blk::LogReader reader, blk::LogReader::open(log));
  if (reader.head().sector_size > k_dm_max_sector)
    return fail(Code::unsupported, "dm-log-writes has no sectors that large");
  TRY_ASSIGN(const Fd fd, new_file(out));
  auto made = Export(std::move(reader), fd.get()).run();
  if (!made) unlink(out.c_str());
  return made;
}

}  // namespace pv::verify
