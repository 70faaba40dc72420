// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <sys/eventfd.h>

#include <catch2/catch.hpp>

#include "base/file.hpp"
#include "base/socket.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/registry.hpp"

namespace pv::test {

uint64_t test_seed() {
  const char* given = getenv("PV_TEST_SEED");
  return given && *given ? std::strtoull(given, nullptr, 10) : fresh_seed();
}

TempDir::TempDir() {
  std::string shared = "/dev/shm/pvt.XXXXXX", plain = "/tmp/pvt.XXXXXX";
  if (const char* made = mkdtemp(shared.data()))
    path_ = made;
  else if (const char* other = mkdtemp(plain.data()))
    path_ = other;
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
  for (char& c : bytes) c = static_cast<char>(rng.next());
  return bytes;
}

ServerThread::ServerThread(const std::string& socket, std::unique_ptr<blk::Disk> disk)
    : loop_(*Loop::create()), stop_(eventfd(0, EFD_CLOEXEC)), disk_(std::move(disk)) {
  auto listener = listen_unix(socket);
  REQUIRE(listener);
  server_ = std::make_unique<nbd::Server>(*loop_, std::move(*listener), *disk_, counters_,
                                          nbd::Export{"disk", "a disk", disk_->geometry()});
  REQUIRE(server_->start());
  REQUIRE(loop_->watch(stop_.get(), EPOLLIN, [this](uint32_t) { loop_->stop(); }));
  thread_ = std::thread([this] { static_cast<void>(loop_->run()); });
}

ServerThread::~ServerThread() {
  const uint64_t one = 1;
  [[maybe_unused]] auto n = ::write(stop_.get(), &one, sizeof one);
  thread_.join();
  server_.reset();
}

std::vector<std::string> backend_names() {
  return {"memory", "file", "pool", "nbd"};
}

const std::vector<StackRow>& stacks() {
  static const std::vector<StackRow> table = {
      {"bare", {}},
      {"cow", {"cow"}, false, StackRow::keeps},
      {"cow(4k)", {"cow:block=4k,file=@/over"}, false, StackRow::keeps},
      {"cow(64k)", {"cow:block=64k,file=@/over"}, false, StackRow::keeps},
      {"cow(1M)", {"cow:block=1M,file=@/over"}, false, StackRow::keeps},
      {"cow+cow", {"cow:file=@/b", "cow:block=16k,file=@/a"}, false, StackRow::keeps},
      {"cow+delay", {"cow:file=@/over", "delay:for=100us"}, false, StackRow::keeps},
      {"fault+cow+fault", {"fault", "cow:block=8k,file=@/over", "fault"}, false, StackRow::keeps},
      {"delay", {"delay:for=100us"}},
      {"readcache", {"readcache:populate=both"}, false, StackRow::caches},
      {"readcache(small)", {"readcache:size=128k,populate=both"}, false, StackRow::caches},
      {"readcache(file)", {"readcache:file=@/fast"}, false, StackRow::caches},
      {"readcache(file, small)",
       {"readcache:file=@/fast,size=128k,populate=write"},
       false,
       StackRow::caches},
      {"readcache+delay", {"readcache", "delay:for=100us"}, false, StackRow::caches},
      {"cow+readcache", {"cow:file=@/over", "readcache:populate=both"}, false, StackRow::keeps},
      {"fault", {"fault"}},
      {"fault+delay", {"fault", "delay:for=100us"}},
      {"fault(rule)", {"fault"}, true},
  };
  return table;
}

bool keeps_changes(const std::string& stack) {
  for (const StackRow& row : stacks())
    if (row.name == stack) return row.reach == StackRow::keeps;
  return false;
}

std::vector<std::string> stack_names() {
  std::vector<std::string> names;
  for (const StackRow& row : stacks()) names.emplace_back(row.name);
  return names;
}

Result<std::unique_ptr<blk::Disk>> FileOpener::image(const std::string& path, bool read_only) {
  Fd fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + path, errno);
  blk::Geometry geometry;
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

Bench::Bench(const std::string& backend, const std::string& stack, const blk::Geometry& geometry,
             WrapBottom wrap)
    : loop_(*Loop::create()) {
  std::unique_ptr<blk::Disk> bottom;
  if (backend == "memory") {
    bottom = *blk::make_memory_disk(geometry);
  } else if (backend == "nbd") {
    auto served = blk::build_stack(*blk::make_memory_disk(geometry), {},
                                   {system_clock(), *loop_, loop_.get(), 0});
    REQUIRE(served);
    server_ = std::make_unique<ServerThread>(dir_.path("s"), std::move(*served));
    blk::NbdOptions options{dir_.path("s"), geometry};
    auto opened = blk::make_nbd_disk(options, *loop_);
    REQUIRE(opened);
    bottom = std::move(*opened);
  } else {
    Fd fd(open(dir_.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(geometry.size)) == 0);
    auto io = backend == "pool" ? blk::make_pool_io(*loop_) : blk::AsyncIo::create(*loop_);
    REQUIRE(io);
    io_ = std::move(*io);
    bottom = blk::make_file_disk(std::move(fd), geometry, *io_);
  }
  auto failing = std::make_unique<FailingDisk>(std::move(bottom));
  failing_ = failing.get();
  bottom = std::move(failing);
  if (wrap) bottom = wrap(std::move(bottom));
  const auto named = [&](const StackRow& candidate) { return candidate.name == stack; };
  const auto row = std::find_if(stacks().begin(), stacks().end(), named);
  REQUIRE(row != stacks().end());
  reach_ = row->reach;
  std::vector<blk::LayerSpec> layers;
  for (std::string text : row->layers) {
    if (const size_t at = text.find('@'); at != std::string::npos) text.replace(at, 1, dir_.path());
    layers.push_back(*blk::parse_layer(text));
  }
  opener_ = std::make_unique<FileOpener>(*loop_);
  const blk::Env env{system_clock(), *loop_, loop_.get(), 0, opener_.get()};
  auto built = blk::build_stack(std::move(bottom), layers, env, /*audit=*/true);
  INFO((built ? "" : built.error().message));
  REQUIRE(built);
  disk_ = std::move(*built);
  if (!row->with_rule) return;
  const json rule = {{"do", {{"kind", "delay"}, {"delay_ms", 0.05}}}};
  REQUIRE(disk_->control({{"op", "fault.add"}, {"rule", json::parse(rule.dump())}}));
}

Bench::~Bench() {
  settle();
  disk_.reset();
}

int Bench::run(Io& io) {
  disk_->submit(io.request);
  const Deadline deadline = Deadline::in_ms(20'000);
  while (io.completions == 0 && !deadline.passed()) REQUIRE(loop_->run_once(100));
  return io.completions == 0 ? -2 : io.error;
}

bool Bench::wait(const std::vector<std::unique_ptr<Io>>& all) {
  const Deadline deadline = Deadline::in_ms(20'000);
  const auto finished = [&] {
    return std::all_of(all.begin(), all.end(), [](const auto& io) { return io->completions > 0; });
  };
  while (!finished() && !deadline.passed()) REQUIRE(loop_->run_once(100));
  return finished();
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
