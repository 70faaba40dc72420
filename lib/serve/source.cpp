// SPDX-License-Identifier: MIT
#include "serve/source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/checked.hpp"
#include "blk/format.hpp"
#include "blk/image_lock.hpp"
#include "serve/storage_daemon.hpp"

namespace pv::serve {
namespace {

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

Result<> open_raw(Opened& opened, Fd fd, const Spec& spec, Loop& loop) {
  TRY_ASSIGN(const uint64_t size, blk::size_of_file(fd.get(), opened.image_path));
  const blk::Geometry geometry = geometry_of(spec, size);
  if (auto good = blk::check_geometry(geometry); !good)
    return fail(not_whole_sectors(opened.image_path, good.error()));
  TRY(blk::lock_image(fd.get(), spec.read_only, opened.image_path));
  TRY_ASSIGN(opened.io, blk::AsyncIo::create(loop));
  opened.disk = blk::make_file_disk(std::move(fd), geometry, *opened.io);
  return {};
}

Result<> open_formatted(Opened& opened, const Spec& spec, const std::string& dir, Loop& loop) {
  TRY_ASSIGN(StorageDaemon daemon,
             start_storage_daemon(opened.image_path, opened.format, spec.read_only, dir));
  opened.helper = std::move(daemon.process);
  blk::NbdOptions options;
  options.socket = daemon.socket;
  options.geometry = geometry_of(spec, 0);
  auto disk = blk::make_nbd_disk(options, loop);
  if (!disk) {
    // The daemon's own words say more than a closed connection does.
    Error error = disk.error();
    if (auto ended = opened.helper.wait(Deadline::in_ms(500))) {
      const std::string complaint = daemon_complaint(dir);
      const bool locked = complaint.find("Is another process using the image") != std::string::npos;
      error = locked
                  ? Error(Code::in_use,
                          fmt::format("image {} is in use by another disk server or by QEMU",
                                      opened.image_path))
                  : Error(Code::invalid, fmt::format("cannot open {} as {}: {}", opened.image_path,
                                                     opened.format, complaint));
    }
    return fail(error);
  }
  opened.disk = std::move(*disk);
  return {};
}

}  // namespace

Result<Opened> open_source(Spec& spec, const std::string& dir, Loop& loop) {
  Opened opened;
  if (spec.type == "memory") {
    TRY_ASSIGN(opened.disk, blk::make_memory_disk(geometry_of(spec, spec.size)));
    return opened;
  }
  Fd fd;
  opened.image_path = spec.path;
  if (spec.type == "scratch") {
    opened.image_path = dir + "/scratch.img";
    opened.format = "raw";
    TRY_ASSIGN(fd, make_scratch(opened.image_path, spec.size));
  } else {
    TRY_ASSIGN(fd, open_image(spec.path, spec.read_only || spec.type == "template"));
    TRY(blk::size_of_file(fd.get(), spec.path));  // a directory or a pipe stops here
    TRY_ASSIGN(opened.format, blk::choose_format(spec.path, fd.get(), spec.format));
  }
  if (spec.type == "template") {
    opened.image_path = dir + "/copy." + opened.format;
    TRY_ASSIGN(Fd copy, make_scratch(opened.image_path, 0));
    TRY(copy_sparse(fd.get(), copy.get()));
    fd = std::move(copy);
  }
  spec.format = opened.format;
  if (opened.format == "raw") {
    TRY(open_raw(opened, std::move(fd), spec, loop));
  } else {
    fd.reset();  // the daemon opens and locks it itself
    TRY(open_formatted(opened, spec, dir, loop));
  }
  return opened;
}

}  // namespace pv::serve
