// SPDX-License-Identifier: MIT
#include "serve/source.hpp"

#include <csignal>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/text.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/checked.hpp"
#include "blk/format.hpp"
#include "blk/image_lock.hpp"
#include "serve/storage_daemon.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_helper_ms = 2000;  // with the server's drain less than close_disk()'s grace

Result<Fd> open_image(const std::string& path, bool read_only) {
  Fd fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (fd) return fd;
  const int err = errno;
  struct stat st {};
  if (err == ENOENT) return fail(Code::no_image, "no image " + path);
  if (err == EISDIR || (stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)))
    return fail(Code::no_image, path + " is a directory");
  return fail(Code::no_image, fmt::format("cannot open image {}: {}", path, strerrordesc_np(err)),
              err);
}

Result<Fd> make_scratch(const std::string& path, uint64_t size) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("cannot create " + path, errno);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) < 0)
    return fail_errno("cannot size " + path, errno);
  return fd;
}

blk::Geometry geometry_of(const Spec& spec, uint64_t size) {
  blk::Geometry geometry;
  geometry.size = size;
  geometry.sector_size = spec.sector_size;
  geometry.physical_sector_size = spec.physical_sector_size;
  geometry.discard_granularity = spec.sector_size;
  geometry.read_only = spec.read_only;
  return geometry;
}

Error not_whole_sectors(const std::string& path, Error error) {
  error.message = fmt::format("image {}: {}", path, error.message);
  return error;
}

// Tells a layer that asks which file it stands on, and when that was changed last.
class Identified final : public blk::Forward {
 public:
  Identified(std::unique_ptr<blk::Disk> lower, std::string path)
      : Forward(std::move(lower)), path_(std::move(path)) {}

  Result<json> control(const json& request) override {
    if (get_string(request, "op") != "base.identity") return lower().control(request);
    struct stat st {};
    if (stat(path_.c_str(), &st) < 0) return fail_errno("cannot stat " + path_, errno);
    if (!S_ISREG(st.st_mode)) return fail(Code::unsupported, path_ + " is no regular file");
    const auto mtime_ns = static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
                          static_cast<uint64_t>(st.st_mtim.tv_nsec);
    return json{{"file_size", static_cast<uint64_t>(st.st_size)}, {"mtime_ns", mtime_ns}};
  }

 private:
  std::string path_;
};

}  // namespace

Source::~Source() {
  // Formats such as qcow2 keep metadata in memory until they are closed: a killed daemon would lose
  // what was written.
  for (StorageDaemon& daemon : daemons_) daemon.process.kill(SIGTERM);
  for (StorageDaemon& daemon : daemons_)
    static_cast<void>(daemon.process.wait(Deadline::in_ms(k_helper_ms)));
}

Result<std::unique_ptr<blk::Disk>> Source::open(Spec& spec) {
  spec.read_only = spec.read_only || spec.base_read_only;
  sector_size_ = spec.sector_size;
  physical_sector_size_ = spec.physical_sector_size;
  if (spec.type == "memory") return blk::make_memory_disk(geometry_of(spec, spec.size));
  Fd fd;
  image_path_ = spec.path;
  if (spec.type == "scratch") {
    image_path_ = dir_ + "/scratch.img";
    spec.format = "raw";
    TRY_ASSIGN(fd, make_scratch(image_path_, spec.size));
  } else {
    TRY_ASSIGN(fd, open_image(spec.path, spec.read_only || spec.type == "template"));
    TRY(blk::size_of_file(fd.get(), spec.path));  // a directory or a pipe stops here
    TRY_ASSIGN(spec.format, blk::choose_format(spec.path, fd.get(), spec.format));
  }
  if (spec.type == "template") {
    image_path_ = dir_ + "/copy." + spec.format;
    TRY_ASSIGN(Fd copy, make_scratch(image_path_, 0));
    TRY(copy_sparse(fd.get(), copy.get()));
    fd = std::move(copy);
  }
  return open_file(std::move(fd), image_path_, spec.format, spec);
}

std::unique_ptr<blk::Disk> Source::identified(std::unique_ptr<blk::Disk> bottom) const {
  if (image_path_.empty()) return bottom;
  return std::make_unique<Identified>(std::move(bottom), image_path_);
}

Result<std::unique_ptr<blk::Disk>> Source::image(const std::string& path, bool read_only) {
  Spec spec;
  spec.type = "image";
  spec.sector_size = sector_size_;
  spec.physical_sector_size = physical_sector_size_;
  spec.read_only = read_only;
  TRY_ASSIGN(Fd fd, open_image(path, read_only));
  TRY(blk::size_of_file(fd.get(), path));
  TRY_ASSIGN(spec.format, blk::choose_format(path, fd.get(), ""));
  return open_file(std::move(fd), path, spec.format, spec);
}

Result<blk::AsyncIo*> Source::async_io() {
  if (!io_) {
    TRY_ASSIGN(io_, blk::AsyncIo::create(loop_));
  }
  return io_.get();
}

Result<std::unique_ptr<blk::Disk>> Source::open_file(Fd fd, const std::string& path,
                                                     const std::string& format, const Spec& spec) {
  if (format == "raw") return open_raw(std::move(fd), path, spec);
  fd.reset();  // the daemon opens and locks it itself
  return open_formatted(path, format, spec);
}

Result<std::unique_ptr<blk::Disk>> Source::open_raw(Fd fd, const std::string& path,
                                                    const Spec& spec) {
  TRY_ASSIGN(const uint64_t size, blk::size_of_file(fd.get(), path));
  const blk::Geometry geometry = geometry_of(spec, size);
  if (auto good = blk::check_geometry(geometry); !good)
    return fail(not_whole_sectors(path, good.error()));
  TRY(blk::lock_image(fd.get(), spec.read_only, path));
  TRY_ASSIGN(blk::AsyncIo * io, async_io());
  return blk::make_file_disk(std::move(fd), geometry, *io);
}

Result<std::unique_ptr<blk::Disk>> Source::open_formatted(const std::string& path,
                                                          const std::string& format,
                                                          const Spec& spec) {
  TRY_ASSIGN(StorageDaemon started,
             start_storage_daemon(path, format, spec.read_only,
                                  fmt::format("{}/qsd{}", dir_, daemons_.size())));
  daemons_.push_back(std::move(started));
  StorageDaemon& daemon = daemons_.back();
  blk::NbdOptions options;
  options.socket = daemon.socket;
  options.geometry = geometry_of(spec, 0);
  auto disk = blk::make_nbd_disk(options, loop_);
  if (disk) return disk;
  // The daemon's own words say more than a closed connection does.
  if (!daemon.process.wait(Deadline::in_ms(500))) return fail(disk.error());
  const std::string complaint = daemon_complaint(daemon);
  if (complaint.find("Is another process using the image") != std::string::npos)
    return fail(Code::in_use,
                fmt::format("image {} is in use by another disk server or by QEMU", path));
  return fail(Code::invalid, fmt::format("cannot open {} as {}: {}", path, format, complaint));
}

}  // namespace pv::serve
