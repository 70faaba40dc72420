// SPDX-License-Identifier: MIT
#include "image.hpp"

#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/format.hpp"
#include "blk/image_lock.hpp"
#include "blk/uri.hpp"
#include "serve/disk_object.hpp"
#include "serve/source.hpp"
#include "verify/in_order.hpp"

namespace pv::verifycmd {
namespace {

constexpr uint32_t k_large_sector = 4096;

// A folder for the sockets and logs of daemons, gone with the image. One that a killed command
// leaves is a temporary file to RunDir::sweep().
class Scratch {
 public:
  static Result<std::unique_ptr<Scratch>> make(const RunDir& run) {
    static std::atomic<int> count = 0;
    const std::string path = fmt::format("{}/verify.tmp.{}.{}", run.path(), getpid(), count++);
    TRY(make_dir(path));
    return std::unique_ptr<Scratch>(new Scratch(path));
  }
  ~Scratch() { remove_tree(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit Scratch(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// What a disk of serve::Source stands on; the source goes first.
struct Ground {
  std::unique_ptr<Scratch> scratch;
  std::unique_ptr<serve::Source> source;
};

Result<std::unique_ptr<verify::Image>> open_by_source(cli::Context& context,
                                                      const ImageFlags& flags,
                                                      const Deadline& deadline) {
  serve::Spec spec;
  spec.physical_sector_size = spec.sector_size;
  spec.read_only = flags.read_only;
  serve::SourceFlags source;
  source.image = flags.name;
  source.format = flags.format;
  source.key_file = flags.key_file;
  TRY(serve::set_source(spec, source));
  TRY_ASSIGN(const RunDir run, context.run_dir());
  const auto open = [&]() -> Result<std::unique_ptr<verify::Image>> {
    const auto ground = std::make_shared<Ground>();
    TRY_ASSIGN(ground->scratch, Scratch::make(run));
    return verify::make_disk_image(
        [ground, spec](Loop& loop) mutable {
          ground->source = std::make_unique<serve::Source>(ground->scratch->path(), loop);
          return ground->source->open(spec);
        },
        flags.name, deadline);
  };
  auto image = open();
  if (image || spec.type != "uri" || image.error().code != Code::invalid) return image;
  spec.sector_size = spec.physical_sector_size = k_large_sector;  // the server may want that
  if (auto again = open()) return again;
  return image;
}

Result<Fd> open_file(const std::string& path, bool read_only) {
  // A pipe without a writer must not keep us; for what is a disk it makes no difference.
  Fd fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK));
  if (fd) return fd;
  if (errno == EISDIR) return fail(Code::no_image, path + " is a directory");
  return fail(Code::no_image, fmt::format("cannot open image {}: {}", path, strerrordesc_np(errno)),
              errno);
}

Result<> open_path(cli::Context& context, ImageFlags flags, const Deadline& deadline,
                   OpenImage& out) {
  struct stat st {};
  if (stat(flags.name.c_str(), &st) == 0 && S_ISCHR(st.st_mode)) {
    TRY_ASSIGN(out.image, open_by_source(context, flags, deadline));
    return {};
  }
  TRY_ASSIGN(Fd fd, open_file(flags.name, flags.read_only));
  TRY(blk::size_of_file(fd.get(), flags.name));  // a directory or a pipe stops here
  TRY_ASSIGN(flags.format, blk::choose_format(flags.name, fd.get(), flags.format));
  if (flags.format == "raw") {
    TRY(blk::lock_image(fd.get(), flags.read_only, flags.name));
    out.way = "file";
    TRY_ASSIGN(out.image, verify::make_raw_image(std::move(fd), flags.name, flags.read_only));
    return {};
  }
  if (flags.format == "qcow2" && flags.read_only) {
    TRY(blk::lock_image(fd.get(), true, flags.name));
    auto plain = verify::make_qcow2_image(std::move(fd), flags.name);
    if (!plain && plain.error().code != Code::unsupported) return fail(plain.error());
    if (plain) {
      out.way = "qcow2";
      out.image = std::move(*plain);
      return {};
    }
  }
  fd.reset();  // whoever opens it now locks it himself
  TRY_ASSIGN(out.image, open_by_source(context, flags, deadline));
  return {};
}

Result<> open_served(const Object& disk, bool read_only, const Deadline& deadline, OpenImage& out) {
  TRY_ASSIGN(const json document, serve::disk_document(disk));
  const std::string state = get_string(document, "state");
  if (state != "serving" && state != "attached")
    return fail(state == "detached" ? Code::detached : Code::server_dead,
                fmt::format("disk '{}' is {}", disk.display(), state));
  blk::NbdOptions options;
  options.socket = disk.path("nbd.sock");
  options.geometry.sector_size = static_cast<uint32_t>(get_u64(document, "sector_size", 512));
  options.geometry.physical_sector_size = options.geometry.sector_size;
  options.geometry.discard_granularity = options.geometry.sector_size;
  options.geometry.read_only = read_only;
  TRY_ASSIGN(out.image, verify::make_disk_image(
                            [options](Loop& loop) { return blk::make_nbd_disk(options, loop); },
                            fmt::format("disk '{}'", disk.display()), deadline));
  out.reference["disk"] = document;
  return {};
}

// A file is known by its inode, whatever it is called.
std::string identity_of(const std::string& name) {
  struct stat st {};
  if (stat(name.c_str(), &st) < 0) return name;
  if (S_ISBLK(st.st_mode)) return fmt::format("device:{}", st.st_rdev);
  return fmt::format("inode:{}:{}", st.st_dev, st.st_ino);
}

// A server on this machine by its socket, however the URI spells that.
std::string identity_of_uri(const std::string& name) {
  const auto uri = blk::parse_uri(name);
  if (!uri || uri->query.count("socket") == 0) return name;
  return identity_of(uri->query.at("socket")) + (uri->path == "/" ? "" : uri->path);
}

}  // namespace

Result<OpenImage> open_image(cli::Context& context, const ImageFlags& flags,
                             const Deadline& deadline) {
  OpenImage out;
  out.way = "server";
  out.reference = json::object();
  if (!flags.served && blk::is_uri(flags.name)) {
    out.identity = identity_of_uri(flags.name);
    out.reference["fill"] = {{"image", flags.name}};
    if (!flags.format.empty()) out.reference["fill"]["format"] = flags.format;
    TRY_ASSIGN(out.image, open_by_source(context, flags, deadline));
    return out;
  }
  if (!flags.served && access(flags.name.c_str(), F_OK) == 0) {
    out.identity = identity_of(flags.name);
    out.reference["fill"] = {{"image", absolute_path(flags.name)}};
    if (!flags.format.empty()) out.reference["fill"]["format"] = flags.format;
    TRY(open_path(context, flags, deadline, out));
    return out;
  }
  TRY_ASSIGN(const RunDir run, context.run_dir(flags.scope));
  const auto disk = serve::find_disk(run, flags.name);
  if (!disk && disk.error().code != Code::no_such_disk && disk.error().code != Code::usage)
    return fail(disk.error());
  if (!disk && flags.served) return fail(disk.error());
  if (!disk)
    return fail(Code::no_image,
                fmt::format("no image {}, and no served disk of this name", flags.name));
  if (!flags.format.empty() && flags.format != "raw")
    return fail(Code::usage, fmt::format("disk '{}' is served: it has no format", flags.name));
  out.identity = identity_of(disk->path("nbd.sock"));
  TRY(open_served(*disk, flags.read_only, deadline, out));
  return out;
}

Result<unsigned> parse_jobs(const std::string& text, unsigned fallback) {
  if (text.empty()) return fallback;
  TRY_ASSIGN(const uint64_t jobs, parse_count("--jobs", text));
  if (jobs == 0 || jobs > verify::k_max_jobs)
    return fail(Code::usage, fmt::format("--jobs: 1 to {}, not {}", verify::k_max_jobs, jobs));
  return static_cast<unsigned>(jobs);
}

}  // namespace pv::verifycmd
