// SPDX-License-Identifier: MIT
#include "blk/cow/store.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blk/backend/file.hpp"
#include "blk/image_lock.hpp"

namespace pv::blk {
namespace {

class FileStore final : public CowStore {
 public:
  FileStore(Fd fd, std::string path, bool read_only, bool temporary, AsyncIo& io)
      : fd_(std::move(fd)),
        path_(std::move(path)),
        read_only_(read_only),
        temporary_(temporary),
        io_(io) {}

  Disk& disk() override { return *disk_; }
  bool temporary() const override { return temporary_; }
  bool read_only() const override { return read_only_; }
  int fd() const override { return fd_.get(); }
  std::string name() const override { return path_; }

  Result<uint64_t> length() override { return size_of_file(fd_.get(), path_); }

  Result<bool> blank() override { return lseek(fd_.get(), 0, SEEK_DATA) < 0 && errno == ENXIO; }

  Result<> read(uint64_t offset, char* bytes, size_t count) override {
    for (size_t done = 0; done < count;) {
      const ssize_t n =
          pread(fd_.get(), bytes + done, count - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("cannot read overlay " + path_, errno);
      if (n == 0) return fail(Code::invalid, "overlay " + path_ + " is cut short");
      done += static_cast<size_t>(n);
    }
    return {};
  }

  Result<> write(uint64_t offset, const char* bytes, size_t count) override {
    for (size_t done = 0; done < count;) {
      const ssize_t n =
          pwrite(fd_.get(), bytes + done, count - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return fail_errno("cannot write overlay " + path_, n < 0 ? errno : EIO);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  Result<> sync() override {
    if (temporary_ || fdatasync(fd_.get()) == 0) return {};
    return fail_errno("cannot flush overlay " + path_, errno);
  }

  Result<> set_length(uint64_t length) override {
    if (ftruncate(fd_.get(), static_cast<off_t>(length)) < 0)
      return fail_errno("cannot size overlay " + path_, errno);
    return open_disk();
  }

  Result<> open_disk() {
    Geometry geometry;
    TRY_ASSIGN(geometry.size, length());
    Fd again(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 3));  // the same description: the locks stay
    if (!again) return fail_errno("cannot open overlay " + path_, errno);
    disk_ = make_file_disk(std::move(again), geometry, io_);
    return {};
  }

 private:
  Fd fd_;
  std::string path_;
  bool read_only_;
  bool temporary_;
  AsyncIo& io_;
  std::unique_ptr<Disk> disk_;
};

Result<Fd> open_temporary(std::string& name) {
  const char* folder = getenv("TMPDIR");
  name = folder && *folder ? folder : "/var/tmp";
  Fd fd(open(name.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  if (fd) return fd;
  std::string path = name + "/pv-overlay.XXXXXX";  // file systems without O_TMPFILE
  fd.reset(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) return fail_errno("cannot create an overlay in " + name, errno);
  unlink(path.c_str());
  return fd;
}

Result<Fd> open_named(const std::string& path, bool read_only) {
  const int how = read_only ? O_RDONLY : O_RDWR | O_CREAT;
  Fd fd(open(path.c_str(), how | O_CLOEXEC, 0600));
  if (!fd && errno == EISDIR) return fail(Code::invalid, "overlay " + path + " is a directory");
  if (!fd) return fail_errno("cannot open overlay " + path, errno);
  struct stat st {};
  if (fstat(fd.get(), &st) < 0) return fail_errno("cannot stat overlay " + path, errno);
  if (!S_ISREG(st.st_mode)) return fail(Code::invalid, "overlay " + path + " is no regular file");
  if (auto locked = lock_image(fd.get(), read_only, path); !locked) {
    Error error = locked.error();
    error.message = "overlay " + path + " is in use by another disk server";
    return fail(std::move(error));
  }
  return fd;
}

}  // namespace

Result<std::unique_ptr<CowStore>> open_cow_store(const std::string& path, bool read_only,
                                                 AsyncIo& io) {
  std::string name = path;
  auto opened = path.empty() ? open_temporary(name) : open_named(path, read_only);
  if (!opened) return fail(opened.error());
  auto store = std::make_unique<FileStore>(std::move(*opened), name, read_only, path.empty(), io);
  TRY(store->open_disk());
  return store;
}

}  // namespace pv::blk
