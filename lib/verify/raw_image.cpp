// SPDX-License-Identifier: MIT
#include "verify/raw_image.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "blk/backend/file.hpp"
#include "verify/image.hpp"

namespace pv::verify {
namespace {

class RawImage final : public Image {
 public:
  RawImage(Fd fd, std::string name, uint64_t size, const FileStamp& stamp, bool read_only)
      : fd_(std::move(fd)),
        name_(std::move(name)),
        size_(size),
        stamp_(stamp),
        read_only_(read_only) {}

  uint64_t size() const override { return size_; }
  bool read_only() const override { return read_only_; }

  Result<> read(uint64_t offset, char* data, size_t length) override {
    TRY_ASSIGN(const size_t n, read_at(fd_.get(), offset, data, length, name_));
    if (n < length) return fail(Code::aborted, name_ + " became shorter while it was read");
    return {};
  }

  Result<> write(uint64_t offset, const char* data, size_t length) override {
    if (read_only_) return fail(Code::read_only, name_ + " can only be read");
    for (size_t done = 0; done < length;) {
      const ssize_t n =
          pwrite(fd_.get(), data + done, length - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("cannot write to " + name_, errno);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  Result<> flush() override {
    if (read_only_) return fail(Code::read_only, name_ + " can only be read");
    if (fdatasync(fd_.get()) < 0) return fail_errno("cannot flush " + name_, errno);
    return {};
  }

  Result<> map(uint64_t offset, uint64_t length, std::vector<blk::Extent>& extents) override {
    const auto at = static_cast<off_t>(offset);
    const off_t data = lseek(fd_.get(), at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {  // a device, or a file system that does not tell
      extents.push_back({length, 0});
      return {};
    }
    if (data != at) {
      const uint64_t hole = data < 0 ? length : static_cast<uint64_t>(data - at);
      extents.push_back({std::min(hole, length), blk::k_hole | blk::k_zero});
      return {};
    }
    const off_t hole = lseek(fd_.get(), at, SEEK_HOLE);
    const uint64_t rest = hole > at ? static_cast<uint64_t>(hole - at) : length;
    extents.push_back({std::min(rest, length), 0});
    return {};
  }

  Result<> unchanged() const override { return stamp_.compare(fd_.get(), name_); }

 private:
  Fd fd_;
  std::string name_;
  uint64_t size_;
  FileStamp stamp_;
  bool read_only_;
};

}  // namespace

Result<FileStamp> FileStamp::of(int fd, const std::string& name) {
  struct stat st {};
  if (fstat(fd, &st) < 0) return fail_errno("cannot stat " + name, errno);
  FileStamp stamp;
  stamp.regular_ = S_ISREG(st.st_mode);
  stamp.size_ = static_cast<uint64_t>(st.st_size);
  stamp.mtime_ns_ = static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
                    static_cast<uint64_t>(st.st_mtim.tv_nsec);
  return stamp;
}

Result<> FileStamp::compare(int fd, const std::string& name) const {
  if (!regular_) return {};
  TRY_ASSIGN(const FileStamp now, of(fd, name));
  if (now.size_ != size_)
    return fail(Code::aborted, fmt::format("{} became {} while it was read", name,
                                           now.size_ > size_ ? "longer" : "shorter"));
  if (now.mtime_ns_ != mtime_ns_)
    return fail(Code::aborted, fmt::format("{} was written to while it was read", name));
  return {};
}

Result<size_t> read_at(int fd, uint64_t offset, char* data, size_t length,
                       const std::string& name) {
  size_t done = 0;
  while (done < length) {
    const ssize_t n = pread(fd, data + done, length - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail(
          Code::io,
          fmt::format("cannot read {} at {}: {}", name, offset + done, strerrordesc_np(errno)),
          errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

Result<std::unique_ptr<Image>> make_raw_image(Fd fd, const std::string& name, bool read_only) {
  TRY_ASSIGN(const uint64_t size, blk::size_of_file(fd.get(), name));
  TRY_ASSIGN(const FileStamp stamp, FileStamp::of(fd.get(), name));
  return std::make_unique<RawImage>(std::move(fd), name, size, stamp, read_only);
}

}  // namespace pv::verify
