// SPDX-License-Identifier: MIT
#include "serve/source.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/checked.hpp"
#include "blk/format.hpp"
#include "blk/image_lock.hpp"
#include "serve/blockdev.hpp"
#include "serve/disk_object.hpp"

namespace pv::serve {
namespace {

constexpr int k_lock_tries = 4;
constexpr uint64_t k_helper_ms = 7000;  // with the server's drain less than close_disk()'s grace

Result<Fd> open_path(const std::string& path, bool read_only) {
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
  geometry.id = spec.id;
  return geometry;
}

Error about_image(const std::string& path, Error error) {
  error.message = fmt::format("image {}: {}", path, error.message);
  return error;
}

Error what_qemu_says(const std::string& name, const Spec& spec, const std::string& complaint) {
  if (complaint.rfind("Unknown driver", 0) == 0)
    return Error(Code::unavailable, fmt::format("cannot open {}: {} (is the Debian package "
                                                "qemu-block-extra installed?)",
                                                name, complaint));
  if (spec.type == "image" || spec.type == "template")
    return Error(Code::invalid,
                 fmt::format("cannot open {} as {}: {}", name, spec.format, complaint));
  return Error(Code::no_image, fmt::format("cannot open {}: {}", name, complaint));
}

// Whether there may be more to an image than its own file: a qcow2 that has a backing file (offset
// 8 of its header, docs/interop/qcow2.txt in QEMU), or a format whose header we do not read.
bool has_backing(const std::string& path) {
  char head[16] = {};
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || pread(fd.get(), head, sizeof head, 0) != static_cast<ssize_t>(sizeof head))
    return true;
  const std::string_view magic(head, 4);
  if (magic == std::string_view("QED\0", 4) || magic == "# Di" || magic == "KDMV" ||
      magic == "vhdx")
    return true;
  if (magic != "QFI\xfb") return false;
  return std::any_of(head + 8, head + 16, [](char c) { return c != 0; });
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
    if (has_backing(path_)) return fail(Code::unsupported, path_ + " is not the only file");
    const auto mtime_ns = static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
                          static_cast<uint64_t>(st.st_mtim.tv_nsec);
    return json{{"file_size", static_cast<uint64_t>(st.st_size)},
                {"mtime_ns", mtime_ns},
                {"device", static_cast<uint64_t>(st.st_dev)},
                {"inode", static_cast<uint64_t>(st.st_ino)}};
  }

 private:
  std::string path_;
};

}  // namespace

Source::~Source() {
  for (StorageDaemon& daemon : daemons_) daemon.ask_to_end();
  const Deadline deadline = Deadline::in_ms(k_helper_ms);
  bool all_ended = true;
  for (StorageDaemon& daemon : daemons_) all_ended = daemon.wait_for_end(deadline) && all_ended;
  // What it had of the image in its memory is gone.
  if (!all_ended)
    static_cast<void>(write_file_atomic(dir_ + "/" + k_lost_file, k_flush_late, 0600));
}

Result<std::unique_ptr<blk::Disk>> Source::open(Spec& spec) {
  spec.read_only = spec.read_only || spec.base_read_only;
  sector_size_ = spec.sector_size;
  physical_sector_size_ = spec.physical_sector_size;
  if (spec.type == "memory") return blk::make_memory_disk(geometry_of(spec, spec.size));
  if (spec.type == "uri") return open_uri(spec);
  if (spec.type == "blockdev") {
    TRY_ASSIGN(const json node, blockdev_of_user(spec.blockdev, spec.read_only));
    return open_daemon(node, spec, "--blockdev");
  }
  if (spec.type == "image") {
    image_path_ = spec.path;
    return open_image(spec);
  }
  Fd fd;
  if (spec.type == "scratch") {
    image_path_ = dir_ + "/scratch.img";
    spec.format = "raw";
    TRY_ASSIGN(fd,
               spec.again ? open_path(image_path_, false) : make_scratch(image_path_, spec.size));
  } else {
    TRY_ASSIGN(fd, copy_template(spec));
  }
  return open_file(std::move(fd), image_path_, spec);
}

// The original is locked while it is copied: half of what a writer does would be worth nothing.
Result<Fd> Source::copy_template(Spec& spec) {
  TRY_ASSIGN(const Fd fd, open_path(spec.path, true));
  TRY(blk::size_of_file(fd.get(), spec.path));  // a directory or a pipe stops here
  TRY_ASSIGN(spec.format, blk::choose_format(spec.path, fd.get(), spec.format));
  TRY(blk::lock_image(fd.get(), true, spec.path));
  image_path_ = dir_ + "/copy." + spec.format;
  if (spec.again) return open_path(image_path_, false);
  TRY_ASSIGN(Fd copy, make_scratch(image_path_, 0));
  TRY(copy_sparse(fd.get(), copy.get()));
  return copy;
}

std::unique_ptr<blk::Disk> Source::identified(std::unique_ptr<blk::Disk> bottom) const {
  if (image_path_.empty()) return bottom;
  return std::make_unique<Identified>(std::move(bottom), image_path_);
}

Result<std::unique_ptr<blk::Disk>> Source::image(const std::string& path, bool read_only,
                                                 const std::string& key_file) {
  Spec spec;
  spec.sector_size = sector_size_;
  spec.physical_sector_size = physical_sector_size_;
  spec.read_only = read_only;
  SourceFlags flags;
  flags.image = path;
  flags.key_file = key_file;
  TRY(set_source(spec, flags));
  if (spec.type == "image") {
    TRY_ASSIGN(std::unique_ptr<blk::Disk> disk, open_image(spec));
    return std::make_unique<Identified>(std::move(disk), spec.path);
  }
  if (!read_only && is_read_only_scheme(path.substr(0, path.find(':'))))
    return fail(Code::read_only, path + " can only be read");
  return open_uri(spec);
}

Result<std::unique_ptr<blk::Disk>> Source::open_image(Spec& spec) {
  struct stat st {};
  if (stat(spec.path.c_str(), &st) == 0 && S_ISCHR(st.st_mode)) {
    if (!spec.format.empty() && spec.format != "raw")
      return fail(Code::usage, spec.path + " is a device: its format is raw");
    spec.format = "raw";
    auto disk = open_daemon(json{{"driver", "host_device"},
                                 {"node-name", k_node_name},
                                 {"filename", spec.path},
                                 {"read-only", spec.read_only}},
                            spec, spec.path);
    if (!disk && disk.error().code == Code::invalid)  // /dev/null and its like have no size
      return fail(Code::no_image, spec.path + " is no regular file or block device");
    return disk;
  }
  TRY_ASSIGN(Fd fd, open_path(spec.path, spec.read_only));
  TRY(blk::size_of_file(fd.get(), spec.path));  // a directory or a pipe stops here
  TRY_ASSIGN(spec.format, blk::choose_format(spec.path, fd.get(), spec.format));
  return open_file(std::move(fd), spec.path, spec);
}

Result<blk::AsyncIo*> Source::async_io() {
  if (!io_) {
    TRY_ASSIGN(io_, blk::AsyncIo::create(loop_));
  }
  return io_.get();
}

Result<std::unique_ptr<blk::Disk>> Source::open_file(Fd fd, const std::string& path, Spec& spec) {
  if (spec.format == "raw" && spec.key_file.empty()) return open_raw(std::move(fd), path, spec);
  fd.reset();  // the daemon opens and locks it itself
  return open_formatted(json{{"driver", "file"}, {"filename", path}}, spec, path);
}

Result<std::unique_ptr<blk::Disk>> Source::open_raw(Fd fd, const std::string& path,
                                                    const Spec& spec) {
  TRY_ASSIGN(const uint64_t size, blk::size_of_file(fd.get(), path));
  const blk::Geometry geometry = geometry_of(spec, size);
  if (auto good = blk::check_geometry(geometry); !good)
    return fail(about_image(path, good.error()));
  TRY(blk::lock_image(fd.get(), spec.read_only, path));
  TRY_ASSIGN(blk::AsyncIo * io, async_io());
  if (spec.direct) return blk::make_direct_disk(std::move(fd), geometry, *io, path);
  return blk::make_file_disk(std::move(fd), geometry, *io);
}

// An NBD server is reached by ourselves, the rest by the daemon.
Result<std::unique_ptr<blk::Disk>> Source::open_uri(Spec& spec) {
  TRY_ASSIGN(const json file, blockdev_of_uri(spec.uri));
  const bool plain = spec.format == "raw" && spec.key_file.empty();
  if (!plain || get_string(file, "driver") != "nbd") return open_formatted(file, spec, spec.uri);
  const json& server = file["server"];
  blk::NbdOptions options;
  options.socket = get_string(server, "path");
  options.host = get_string(server, "host");
  options.port = get_string(server, "port");
  options.export_name = get_string(file, "export");
  options.geometry = geometry_of(spec, 0);
  options.reconnect_ns = spec.reconnect_ns;
  auto disk = blk::make_nbd_disk(options, loop_);
  if (!disk) return fail(about_image(spec.uri, disk.error()));
  spec.read_only = (*disk)->geometry().read_only;
  return disk;
}

// A format on top of `file`.
Result<std::unique_ptr<blk::Disk>> Source::open_formatted(json file, Spec& spec,
                                                          const std::string& name) {
  if (spec.format == "luks" && spec.key_file.empty())
    return fail(Code::usage, fmt::format("{} is encrypted: say --key-file", name));
  if (!spec.key_file.empty() && !blk::takes_key(spec.format))
    return fail(Code::usage,
                fmt::format("--key-file is for luks and qcow2, and {} is {}", name, spec.format));
  spec.read_only = spec.read_only || blk::is_read_only_format(spec.format);
  NodeOptions options;
  options.format = spec.format;
  options.read_only = spec.read_only;
  options.direct = spec.direct;
  options.key = !spec.key_file.empty();
  return open_daemon(blockdev_of_image(std::move(file), options), spec, name);
}

Result<std::unique_ptr<blk::Disk>> Source::open_daemon(const json& node, const Spec& spec,
                                                       const std::string& name) {
  if (!spec.key_file.empty() && access(spec.key_file.c_str(), R_OK) < 0)
    return fail(
        Code::invalid,
        fmt::format("cannot read the key file {}: {}", spec.key_file, strerrordesc_np(errno)),
        errno);
  DaemonOptions options;
  options.blockdev = to_line(node);
  options.key_file = spec.key_file;
  options.read_only = spec.read_only;
  options.stem = fmt::format("{}/qsd{}", dir_, daemons_.size());
  StorageDaemon& daemon = daemons_.emplace_back(std::move(options));
  blk::NbdOptions connection;
  connection.socket = daemon.socket();
  connection.geometry = geometry_of(spec, 0);
  connection.reconnect_ns = spec.reconnect_ns;
  connection.keeper = &daemon;
  Rng rng(fresh_seed());
  for (int tries = k_lock_tries;; --tries) {
    TRY(daemon.start());
    auto disk = blk::make_nbd_disk(connection, loop_);
    if (disk) return disk;
    // The daemon's own words say more than a closed connection does.
    if (!daemon.ended(500)) return fail(about_image(name, disk.error()));
    const std::string complaint = daemon.complaint();
    const bool locked = complaint.find("Is another process using the image") != std::string::npos;
    if (!locked) return fail(what_qemu_says(name, spec, complaint));
    if (tries == 1)
      return fail(Code::in_use,
                  fmt::format("image {} is in use by another disk server or by QEMU", name));
    sleep_ns((5 + rng.below(30)) * k_ns_per_ms);  // of two that start at once, one shall win
  }
}

}  // namespace pv::serve
