// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>

#include "../catch.hpp"
#include "base/file.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/registry.hpp"
#include "blk/wire.hpp"
#include "patience.hpp"
#include "upstream.hpp"
#include "vhost_disk.hpp"

namespace pv::test {

uint64_t test_seed() {
  const char* given = getenv("PV_TEST_SEED");
  return given && *given ? std::strtoull(given, nullptr, 10) : fresh_seed();
}

TempDir::TempDir() {
  const char* given = getenv("PV_TMP");  // of the run that this test is in
  for (const char* top : {given ? given : "/dev/shm", "/dev/shm", "/tmp"}) {
    std::string pattern = std::string(top) + "/pvt.XXXXXX";
    if (path_.empty() && mkdtemp(pattern.data())) path_ = pattern;
  }
  REQUIRE(!path_.empty());
}

TempDir::~TempDir() {
  remove_tree(path_);
}

Io::Io(blk::Op op, uint64_t offset, uint64_t length, uint32_t flags) {
  request.op = op;
  request.offset = offset;
  request.length = length;
  request.flags = flags;
  request.injected = &injected;
  request.owner = this;
  request.done = [](blk::Request& done, int with) {
    Io& io = *static_cast<Io*>(done.owner);
    ++io.completions;
    io.error = with;
  };
  if (op == blk::Op::map) request.extents = &extents;
  // An absurd length is refused before its data is looked at.
  if ((op == blk::Op::read || op == blk::Op::write) && length <= 64 << 20) {
    data.resize(length);
    split_into({});
  }
}

void Io::split_into(const std::vector<size_t>& sizes) {
  pieces.clear();
  size_t at = 0;
  for (size_t size : sizes) {
    size = std::min(size, data.size() - at);
    pieces.push_back({data.data() + at, size});
    at += size;
  }
  if (at < data.size() || pieces.empty()) pieces.push_back({data.data() + at, data.size() - at});
  request.data = pieces.data();
  request.segments = static_cast<int>(pieces.size());
}

std::string random_bytes(Rng& rng, size_t count) {
  std::string bytes(count, '\0');
  for (size_t at = 0; at < count; at += sizeof(uint64_t)) {
    const uint64_t next = rng.next();
    memcpy(bytes.data() + at, &next, std::min(sizeof(next), count - at));
  }
  return bytes;
}

void FailingDisk::submit(blk::Request& request) {
  if (error != 0 && request.op == op) return request.done(request, error);
  if (!recording_) return lower().submit(request);
  std::unique_lock guard(mutex_);
  Flight* flight = flights_.take();
  flight->parent = &request;
  flight->disk = this;
  flight->submitted = serial_;
  in_flight_ += changes_data(request.op) ? 1 : 0;
  guard.unlock();
  blk::make_child(flight->child, request, flight, [](blk::Request& child, int with) {
    auto& done = *static_cast<Flight*>(child.owner);
    done.disk->completed(done, with);
  });
  lower().submit(flight->child);
}

void FailingDisk::completed(Flight& flight, int with) {
  blk::Request* parent = flight.parent;
  {
    const std::lock_guard guard(mutex_);
    const blk::Request& child = flight.child;
    in_flight_ -= changes_data(child.op) ? 1 : 0;
    const Range range{child.offset, child.offset + child.length, ++serial_};
    if (with == 0 && changes_data(child.op))
      ((child.flags & blk::k_fua) != 0 ? stable_ : dirty_).push_back(range);
    if (with == 0 && child.op == blk::Op::flush) {
      ++flushes_;
      // Only what had completed before the flush began is in it.
      const auto later = std::stable_partition(
          dirty_.begin(), dirty_.end(),
          [&](const Range& dirty) { return dirty.serial > flight.submitted; });
      stable_.insert(stable_.end(), later, dirty_.end());
      dirty_.erase(later, dirty_.end());
    }
    flights_.give(&flight);
  }
  parent->done(*parent, with);
}

void FailingDisk::record() {
  const std::lock_guard guard(mutex_);
  recording_ = true;
  dirty_.clear();
  stable_.clear();
  flushes_ = 0;
}

bool FailingDisk::stable(uint64_t offset, uint64_t length) const {
  const std::lock_guard guard(mutex_);
  const uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    uint64_t reach = at;
    for (const Range& range : stable_)
      if (range.begin <= at) reach = std::max(reach, range.end);
    if (reach == at) return false;
    at = reach;
  }
  return true;
}

size_t FailingDisk::unstable() const {
  const std::lock_guard guard(mutex_);
  return dirty_.size() + in_flight_;
}

size_t FailingDisk::flushes() const {
  const std::lock_guard guard(mutex_);
  return flushes_;
}

std::vector<std::string> backend_names() {
  return {"memory", "file", "pool", "nbd", "qcow2", "nbdkit"};
}

const StackRow& stack_row(const std::string& name) {
  const auto named = [&](const StackRow& candidate) { return candidate.name == name; };
  const auto row = std::find_if(stacks().begin(), stacks().end(), named);
  REQUIRE(row != stacks().end());
  return *row;
}

std::vector<Combination> combinations() {
  std::vector<Combination> all;
  for (const std::string& stack : stack_names()) {
    all.push_back({"memory", stack, "host"});
    all.push_back({"file", stack, "host"});
    all.push_back({"memory", stack, "nbd"});
    all.push_back({"memory", stack, "vhost"});
  }
  for (const char* stack : {"bare", "fault+delay"}) {
    all.push_back({"pool", stack, "host"});
    all.push_back({"nbd", stack, "host"});
    all.push_back({"qcow2", stack, "host"});
    all.push_back({"nbdkit", stack, "host"});
    all.push_back({"file", stack, "nbd"});
    all.push_back({"file", stack, "vhost"});
  }
  return all;
}

std::vector<std::string> stack_names() {
  std::vector<std::string> names;
  for (const StackRow& row : stacks()) names.emplace_back(row.name);
  return names;
}

Result<std::unique_ptr<blk::Disk>> FileOpener::image(const std::string& path, bool read_only,
                                                     const std::string&) {
  Fd fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + path, errno);
  blk::Geometry geometry = geometry_;
  TRY_ASSIGN(geometry.size, blk::size_of_file(fd.get(), path));
  geometry.read_only = read_only;
  TRY_ASSIGN(blk::AsyncIo * io, async_io());
  return blk::make_file_disk(std::move(fd), geometry, *io);
}

Result<blk::AsyncIo*> FileOpener::async_io() {
  if (!io_) {
    TRY_ASSIGN(io_, blk::AsyncIo::create(loop_));
  }
  return io_.get();
}

std::unique_ptr<blk::Disk> Bench::bottom(const std::string& backend, const blk::Geometry& geometry,
                                         Loop& loop) {
  if (backend == "memory") return *blk::make_memory_disk(geometry);
  if (backend == "nbd") {
    auto served =
        blk::build_stack(*blk::make_memory_disk(geometry), {}, {system_clock(), loop, &loop, 0});
    REQUIRE(served);
    server_ = std::make_unique<ServerThread>(dir_.path("s"), std::move(*served));
    blk::NbdOptions options;
    options.socket = dir_.path("s");
    options.geometry = geometry;
    auto opened = blk::make_nbd_disk(options, loop);
    REQUIRE(opened);
    return std::move(*opened);
  }
  if (backend == "qcow2" || backend == "nbdkit") return upstream_disk(backend, geometry, loop);
  Fd fd(open(dir_.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(ftruncate(fd.get(), static_cast<off_t>(geometry.size)) == 0);
  auto io = backend == "pool" ? blk::make_pool_io(loop) : blk::AsyncIo::create(loop);
  REQUIRE(io);
  io_ = std::move(*io);
  return blk::make_file_disk(std::move(fd), geometry, *io_);
}

std::unique_ptr<blk::Disk> Bench::stack(std::unique_ptr<blk::Disk> bottom,
                                        const blk::Geometry& geometry, Loop& loop) {
  for (const char* file : row_.files) {
    Fd fd(open(dir_.path(file).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(geometry.size)) == 0);
  }
  write_key(dir_);
  std::vector<blk::LayerSpec> layers;
  for (std::string text : row_.layers) {
    for (size_t at = 0; (at = text.find('@', at)) != std::string::npos; ++at)
      text.replace(at, 1, dir_.path());
    layers.push_back(*blk::parse_layer(text));
  }
  opener_ = std::make_unique<FileOpener>(loop, geometry);
  const blk::Env env{system_clock(), loop, &loop, 0, opener_.get()};
  auto built = blk::build_stack(std::move(bottom), layers, env, /*audit=*/true);
  INFO((built ? "" : built.error().message));
  REQUIRE(built);
  if (row_.with_rule) {
    const json rule = {{"do", {{"kind", "delay"}, {"delay_ms", 0.05}}}};
    REQUIRE((*built)->control({{"op", "fault.add"}, {"rule", json::parse(rule.dump())}}));
  }
  return std::move(*built);
}

Bench::Bench(const std::string& backend, const StackRow& row, const blk::Geometry& geometry,
             WrapBottom wrap, const std::string& front)
    : row_(row), loop_(*Loop::create()), front_(front) {
  if (front != "host") front_loop_ = *Loop::create();
  Loop& loop = front_loop_ ? *front_loop_ : *loop_;
  auto failing = std::make_unique<FailingDisk>(bottom(backend, geometry, loop));
  failing_ = failing.get();
  std::unique_ptr<blk::Disk> lower = std::move(failing);
  if (wrap) lower = wrap(std::move(lower));
  disk_ = stack(std::move(lower), geometry, loop);
  if (front_loop_) serve(loop);
  if (!row_.scrambled || disk_->geometry().read_only) return;
  Io blank(blk::Op::zero, 0, disk_->geometry().size);
  REQUIRE(run(blank) == 0);
}

void Bench::serve(Loop& loop) {
  const blk::Geometry served = disk_->geometry();
  served_ = std::make_unique<ServerThread>(dir_.path("front"), std::move(disk_), &loop, front_);
  if (front_ == "vhost") {
    disk_ = make_vhost_disk(dir_.path("front"), served, *loop_);
    return;
  }
  auto client = blk::make_nbd_disk({dir_.path("front"), served}, *loop_);
  REQUIRE(client);
  disk_ = std::move(*client);  // unchecked: the server is to say what is wrong
}

bool Bench::carries(const blk::Request& request) const {
  if (front_ == "host" || request.op == blk::Op::flush) return true;
  // A client keeps to itself what the server does not offer.
  if (request.op == blk::Op::discard && disk_->geometry().discard == blk::DiscardBehaviour::ignored)
    return false;
  if (request.length == 0) return false;
  if (front_ == "vhost") return vhost_carries(request);
  constexpr uint64_t k_max_on_wire = 32 << 20;
  return request.length <= k_max_on_wire && request.op != blk::Op::cache;
}

int Bench::seen(blk::Op op, int error) const {
  if (front_ == "host") return error;
  if (op == blk::Op::discard && disk_->geometry().discard == blk::DiscardBehaviour::ignored)
    return 0;
  return blk::delivered(front_ == "nbd" ? blk::Front::nbd : blk::Front::vhost, op, error);
}

Bench::~Bench() {
  settle();
  disk_.reset();
}

int Bench::run(Io& io) {
  disk_->submit(io.request);
  run_until(*loop_, [&] { return io.completions != 0; });
  return io.error;
}

void Bench::wait(const std::vector<std::unique_ptr<Io>>& all) {
  run_until(*loop_, [&] {
    return std::all_of(all.begin(), all.end(), [](const auto& io) { return io->completions > 0; });
  });
}

void Bench::settle() {
  for (int i = 0; i < 3; ++i) static_cast<void>(loop_->run_once(0));
}

std::string Bench::read(uint64_t offset, uint64_t length) {
  Io io(blk::Op::read, offset, length);
  return run(io) == 0 ? io.bytes() : std::string();
}

int Bench::write(uint64_t offset, std::string_view bytes, uint32_t flags) {
  Io io(blk::Op::write, offset, bytes.size(), flags);
  std::copy(bytes.begin(), bytes.end(), io.data.begin());
  return run(io);
}

}  // namespace pv::test
