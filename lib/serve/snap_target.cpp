// SPDX-License-Identifier: MIT
#include "serve/snap_target.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/snap_base.hpp"

#define XXH_INLINE_ALL
#include <algorithm>
#include <cerrno>
#include <xxhash.h>

namespace pv::serve {
namespace {

Result<> check_dir(const std::string& dir) {
  struct stat st {};
  if (dir.empty() || dir[0] != '/')
    return fail(Code::invalid, fmt::format("'{}' is no absolute path", printable(dir)));
  if (lstat(dir.c_str(), &st) < 0) return fail_errno("cannot save a disk to " + dir, errno);
  if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
    return fail(Code::invalid, dir + " is no directory of ours");
  DIR* open = opendir(dir.c_str());
  if (open == nullptr) return fail_errno("cannot open " + dir, errno);
  size_t entries = 0;
  while (readdir(open) != nullptr) ++entries;
  closedir(open);
  if (entries > 2) return fail(Code::invalid, dir + " is not empty");
  return {};
}

std::string of_descriptor(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

}  // namespace

bool is_private_source(const Spec& spec) {
  return spec.type == "scratch" || spec.type == "template" || spec.type == "memory";
}

size_t layers_above(const std::vector<blk::LayerSpec>& layers) {
  size_t count = 0;
  while (count < layers.size() && layers[count].name != "cow" && layers[count].name != "stripe")
    ++count;
  return count;
}

SnapTarget::SnapTarget(std::string dir, const Spec& spec, bool closing, Loop& loop, Fd records)
    : StateOut(records.get()),
      dir_(std::move(dir)),
      spec_(spec),
      closing_(closing),
      loop_(loop),
      records_(std::move(records)),
      states_(json::array()) {}

SnapTarget::~SnapTarget() {
  if (copy_) copy_->cancel();
}

Result<std::unique_ptr<SnapTarget>> SnapTarget::make(const std::string& dir, const Spec& spec,
                                                     bool closing, Loop& loop) {
  TRY(check_dir(dir));
  const std::string records = dir + "/" + k_snap_records;
  Fd fd(open(records.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("cannot create " + records, errno);
  std::unique_ptr<SnapTarget> made(new SnapTarget(dir, spec, closing, loop, std::move(fd)));
  for (const std::string& text : spec.layers) {
    TRY_ASSIGN(blk::LayerSpec layer, blk::parse_layer(text));
    if (layer.name == "cow") made->cows_.push_back(made->layers_.size());
    made->layers_.push_back(std::move(layer));
  }
  return made;
}

Result<Fd> SnapTarget::create(const std::string& name) const {
  const std::string path = dir_ + "/" + name;
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("cannot create " + path, errno);
  return fd;
}

// --- what the walk asks for -------------------------------------------------------------------

Result<bool> SnapTarget::overlay(Overlay overlay) {
  if (cows_seen_ == cows_.size()) return fail(Code::bug, "more overlays than layers");
  const size_t layer = cows_[cows_seen_++];
  if (!in_base_ && (overlay.read_only || is_private_source(spec_))) return false;
  in_base_ = true;
  if (overlay.read_only) return true;
  const std::string name = overlays_.empty()
                               ? std::string(k_snap_overlay)
                               : fmt::format("{}{}", k_snap_overlay, overlays_.size());
  overlays_.emplace_back(layer, name);
  jobs_.push_back({name, nullptr, overlay.fd, overlay.temporary, std::move(overlay.seal)});
  return true;
}

Result<> SnapTarget::content(blk::Disk& disk, int fd) {
  if (in_base_) return {};
  struct stat st {};
  const bool regular = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
  jobs_.push_back(
      {k_snap_data, &disk, regular ? fd : -1, regular && is_private_source(spec_), nullptr});
  return {};
}

Result<> SnapTarget::write_state() {
  TRY_ASSIGN(const json sections, finish());
  for (const json& section : sections) states_.push_back(section["layer"]);
  const std::string text = to_line({{"v", 1}, {"layers", sections}}) + "\n";
  state_hash_ = fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
  TRY_ASSIGN(const Fd fd, create(k_snap_state));
  return write_all(fd.get(), text);
}

// --- the copies -------------------------------------------------------------------------------

void SnapTarget::copy(SnapCopy::Done done) {
  job_ = 0;
  next(std::move(done));
}

void SnapTarget::next(SnapCopy::Done done) {
  if (job_ == jobs_.size()) return done({});
  Job& job = jobs_[job_];
  const std::string path = dir_ + "/" + job.name;
  if (closing_ && job.ours && job.fd >= 0 &&
      linkat(AT_FDCWD, of_descriptor(job.fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) ==
          0) {
    job.linked = true;
    Fd same(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!same) return done(fail_errno("cannot open " + path, errno));
    return copied(job, std::move(same), {}, done);
  }
  auto to = create(job.name);
  if (!to) return done(fail(to.error()));
  const int fd = to->get();
  const auto kept = std::make_shared<Fd>(std::move(*to));
  const auto then = [this, &job, kept, done = std::move(done)](Result<> result) {
    copied(job, std::move(*kept), std::move(result), done);
  };
  copy_ = job.fd >= 0 ? SnapCopy::of_file(loop_, job.fd, fd, then)
                      : SnapCopy::of_disk(loop_, *job.disk, fd, then);
  const auto running = copy_;
  running->start();
}

void SnapTarget::copied(Job& job, Fd to, Result<> result, const SnapCopy::Done& done) {
  if (result && job.seal) result = job.seal(to.get());
  if (!result) return done(std::move(result));
  ++job_;
  next(done);
}

bool SnapTarget::shares() const {
  return std::any_of(jobs_.begin(), jobs_.end(), [](const Job& job) { return job.linked; });
}

// What the snapshot has is replaced by a copy; the server goes on with the file that it has.
Result<> SnapTarget::part() {
  for (Job& job : jobs_) {
    if (!std::exchange(job.linked, false)) continue;
    const std::string path = dir_ + "/" + job.name, temporary = path + ".part";
    struct stat theirs {
    }, ours{};
    if (lstat(path.c_str(), &theirs) < 0 || fstat(job.fd, &ours) < 0) continue;
    if (theirs.st_ino != ours.st_ino || theirs.st_dev != ours.st_dev) continue;
    auto copy = create(job.name + ".part");
    Result<> copied = copy ? copy_sparse(job.fd, copy->get()) : fail(copy.error());
    if (copied && rename(temporary.c_str(), path.c_str()) == 0) continue;
    // Better no snapshot than one that goes on changing.
    unlink(temporary.c_str());
    unlink(path.c_str());
    return copied ? fail_errno("cannot replace " + path, errno) : copied;
  }
  return {};
}

// --- what is there ----------------------------------------------------------------------------

Result<json> SnapTarget::describe() const {
  json files = json::array();
  std::vector<std::string> names = {k_snap_state, k_snap_records};
  for (const Job& job : jobs_) names.push_back(job.name);
  for (const std::string& name : names) {
    struct stat st {};
    const std::string path = dir_ + "/" + name;
    if (lstat(path.c_str(), &st) < 0) return fail_errno("cannot stat " + path, errno);
    json file = {{"name", name}, {"size_bytes", static_cast<uint64_t>(st.st_size)}};
    if (name == k_snap_state) file["xxh3"] = state_hash_;
    files.push_back(std::move(file));
  }
  json content = {{"kind", in_base_ ? k_snap_overlay : k_snap_data},
                  {"above", layers_above(layers_)}};
  if (in_base_) {
    TRY_ASSIGN(content["base"], base());
  }
  return json{{"content", content}, {"states", states_}, {"files", files}};
}

Result<json> SnapTarget::base() const {
  json overlays = json::array();
  for (const auto& [layer, file] : overlays_)
    overlays.push_back({{"layer", layer}, {"file", file}});
  TRY_ASSIGN(json files, base_files(spec_, layers_, overlays_));
  return json{{"overlays", overlays}, {"files", files}};
}

}  // namespace pv::serve
