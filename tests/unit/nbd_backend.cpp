// SPDX-License-Identifier: MIT
// If this fails, a disk hangs, lies or stays dead after the server behind it has gone, or a resize
// loses the disk.
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/patience.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/nbd.hpp"
#include "blk/backend/nbd_loss.hpp"
#include "blk/checked.hpp"
#include "blk/registry.hpp"
#include "serve/source.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

Geometry geometry_of(uint64_t size) {
  Geometry geometry;
  geometry.size = size;
  return geometry;
}

// A disk on a server that a test stops and starts.
struct NbdBackendRig {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  std::unique_ptr<ServerThread> server;
  std::unique_ptr<Disk> disk;

  void serve(uint64_t size) {
    server.reset();
    unlink(dir.path("s").c_str());
    server = std::make_unique<ServerThread>(dir.path("s"),
                                            make_checked(*make_memory_disk(geometry_of(size))));
    if (!disk) return;
    const Deadline deadline = Deadline::in_ms(20'000);  // the loss is noticed
    while (disk_up() && !deadline.passed()) REQUIRE(loop->run_once(20));
  }
  bool disk_up() const { return backend()["connected"] == true; }
  void open(uint64_t reconnect_ms) {
    NbdOptions options;
    options.socket = dir.path("s");
    options.geometry = geometry_of(0);
    options.reconnect_ns = reconnect_ms * k_ns_per_ms;
    auto opened = make_nbd_disk(options, *loop);
    REQUIRE(opened);
    disk = std::move(*opened);
  }
  int run(Io& io) {
    disk->submit(io.request);
    run_until(*loop, [&] { return io.completions != 0; });
    return io.error;
  }
  int run(Op op, uint32_t connection = 0) {
    Io io(op, 0, op == Op::flush ? 0 : 512);
    io.request.connection = connection;
    return run(io);
  }
  json backend() const {
    json out;
    disk->inspect(out);
    return out["backend"];
  }
  bool complains_of(const char* what) const {
    return backend().value("why", std::string()).find(what) != std::string::npos;
  }
  ~NbdBackendRig() {
    for (int i = 0; i < 3; ++i) static_cast<void>(loop->run_once(0));
  }
};

}  // namespace

TEST_CASE("a server that comes back is found again", "[nbd]") {
  NbdBackendRig rig;
  rig.serve(1 << 20);
  rig.open(60'000);
  CHECK(rig.run(Op::read) == 0);
  rig.serve(1 << 20);
  CHECK(rig.run(Op::read) == 0);
  CHECK(rig.backend()["reconnects"] == 1);
  CHECK(rig.backend()["connected"] == true);
}

TEST_CASE("a server that stays away: requests wait their time and fail with ESHUTDOWN", "[nbd]") {
  NbdBackendRig rig;
  rig.serve(1 << 20);
  rig.open(50);
  rig.server.reset();
  REQUIRE(rig.loop->run_once(100));
  CHECK(rig.run(Op::read) == ESHUTDOWN);
  CHECK(rig.run(Op::flush) == ESHUTDOWN);
  CHECK(rig.backend()["connected"] == false);
  CHECK_FALSE(rig.backend()["why"].get<std::string>().empty());
  rig.serve(1 << 20);
  const Deadline deadline = Deadline::in_ms(20'000);  // the pause between attempts may be longer
  while (rig.run(Op::read) != 0) REQUIRE_FALSE(deadline.passed());
}

TEST_CASE("what was acknowledged and not flushed is told by the next flush", "[nbd]") {
  NbdBackendRig rig;
  rig.serve(1 << 20);
  rig.open(60'000);
  CHECK(rig.run(Op::write, 1) == 0);
  CHECK(rig.run(Op::flush, 2) == 0);
  rig.serve(1 << 20);
  CHECK(rig.run(Op::read, 1) == 0);
  CHECK(rig.run(Op::flush, 1) == 0);  // it had been flushed
  CHECK(rig.run(Op::write, 1) == 0);
  rig.serve(1 << 20);
  CHECK(rig.run(Op::read, 1) == 0);
  CHECK(rig.run(Op::flush, 2) == EIO);  // the first to ask
  CHECK(rig.run(Op::flush, 1) == EIO);  // and the one that wrote
  CHECK(rig.run(Op::flush, 1) == 0);
  CHECK(rig.run(Op::flush, 2) == 0);
  Io fua(Op::write, 0, 512, k_fua);
  CHECK(rig.run(fua) == 0);
  rig.serve(1 << 20);
  CHECK(rig.run(Op::flush, 1) == 0);
}

TEST_CASE("a flush covers what was acknowledged before it was sent", "[nbd]") {
  NbdLoss loss;
  loss.changed(1);
  const uint64_t mark = loss.mark();
  loss.changed(1);
  loss.flushed(mark);
  loss.connection_lost();
  CHECK(loss.times() == 1);
  CHECK(loss.tell(1));
  CHECK_FALSE(loss.tell(1));
  loss.connection_lost();
  CHECK(loss.times() == 1);
}

TEST_CASE("a server of another size is refused, not adopted", "[nbd]") {
  NbdBackendRig rig;
  rig.serve(1 << 20);
  rig.open(60);
  rig.serve(2 << 20);
  CHECK(rig.run(Op::read) == ESHUTDOWN);
  const Deadline deadline = Deadline::in_ms(20'000);  // the attempt may outlast the request
  while (!rig.complains_of("2097152") && !deadline.passed()) REQUIRE(rig.loop->run_once(20));
  CHECK(rig.disk->geometry().size == 1 << 20);
  CHECK(rig.complains_of("2097152"));
}

TEST_CASE("an upstream that wants larger sectors is refused with the flag to use", "[nbd]") {
  NbdBackendRig rig;
  Geometry geometry = geometry_of(1 << 20);
  geometry.sector_size = geometry.physical_sector_size = 4096;
  rig.server =
      std::make_unique<ServerThread>(rig.dir.path("s"), make_checked(*make_memory_disk(geometry)));
  NbdOptions options;
  options.socket = rig.dir.path("s");
  const auto opened = make_nbd_disk(options, *rig.loop);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == Code::invalid);
  CHECK(opened.error().message.find("--sector-size 4096") != std::string::npos);
}

TEST_CASE("a disk behind an NBD server of somebody else is not resized", "[nbd]") {
  NbdBackendRig rig;
  rig.serve(1 << 20);
  rig.open(100);
  CHECK(rig.disk->resize(2 << 20).error().code == Code::unsupported);
  CHECK(rig.run(Op::read) == 0);
}

namespace {

// An image of QEMU's, opened as a server opens it.
struct QemuRig : NbdBackendRig {
  std::unique_ptr<serve::Source> source;
  explicit QemuRig(const std::string& format, uint64_t size = 4 << 20) {
    const std::string path = dir.path("t." + format);
    const auto made =
        run_program({"qemu-img", "create", "-q", "-f", format, path, std::to_string(size)},
                    Deadline::in_ms(60'000));
    REQUIRE(made);
    REQUIRE(made->status.code == 0);
    source = std::make_unique<serve::Source>(dir.path(), *loop);
    serve::Spec spec;
    spec.type = "image";
    spec.path = path;
    spec.format = format;
    spec.reconnect_ns = 60 * k_ns_per_s;
    REQUIRE(serve::complete(spec, "t"));
    auto opened = source->open(spec);
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened);
    disk = std::move(*opened);
  }
  ~QemuRig() { disk.reset(); }
};

}  // namespace

TEST_CASE("qcow2 grows and shrinks, and what was written stays", "[nbd][qsd]") {
  QemuRig rig("qcow2");
  Io write(Op::write, 512, 512);
  std::fill(write.data.begin(), write.data.end(), 'x');
  CHECK(rig.run(write) == 0);
  const Result<> grown = rig.disk->resize(8 << 20);
  INFO((grown ? "" : grown.error().message));
  CHECK(grown);
  CHECK(rig.disk->geometry().size == 8 << 20);
  Io read(Op::read, 512, 512);
  CHECK(rig.run(read) == 0);
  CHECK(read.bytes() == write.bytes());
  Io last(Op::write, (8 << 20) - 512, 512);
  CHECK(rig.run(last) == 0);
  CHECK(rig.disk->resize(2 << 20));
  CHECK(rig.disk->geometry().size == 2 << 20);
  CHECK(rig.run(read) == 0);
  CHECK(rig.backend()["restarts"] == 0);
}

TEST_CASE("a format that cannot be resized says so, and serves on", "[nbd][qsd]") {
  QemuRig rig("vdi");
  const Result<> resized = rig.disk->resize(8 << 20);
  REQUIRE_FALSE(resized);
  CHECK(resized.error().code == Code::unsupported);
  CHECK(resized.error().message.find("vdi") != std::string::npos);
  CHECK(rig.disk->geometry().size == 4 << 20);
  CHECK(rig.run(Op::write) == 0);
}

TEST_CASE("qemu-storage-daemon killed again and again: restarted, but not for ever", "[nbd][qsd]") {
  QemuRig rig("qcow2");
  Io write(Op::write, 0, 512, k_fua);
  std::fill(write.data.begin(), write.data.end(), 'k');
  CHECK(rig.run(write) == 0);
  const uint64_t began_ns = system_clock().now_ns();
  for (int round = 1; round <= 5; ++round) {
    kill(rig.backend()["pid"].get<pid_t>(), SIGKILL);
    const Deadline deadline = Deadline::in_ms(20'000);
    while (rig.backend()["restarts"] != round && !deadline.passed())
      REQUIRE(rig.loop->run_once(20));
    Io read(Op::read, 0, 512);
    CHECK(rig.run(read) == 0);
    CHECK(read.bytes() == write.bytes());
  }
  kill(rig.backend()["pid"].get<pid_t>(), SIGKILL);
  const Deadline deadline = Deadline::in_ms(20'000);
  while (!rig.complains_of("5 times") && rig.backend()["restarts"] == 5 && !deadline.passed())
    REQUIRE(rig.loop->run_once(20));
  if (rig.backend()["restarts"] == 6 && system_clock().now_ns() - began_ns > 9 * k_ns_per_s) {
    WARN("skipped: this machine is too slow for 5 restarts within 10 s");
    return;
  }
  CHECK(rig.backend()["connected"] == false);
  CHECK(rig.complains_of("5 times"));
  CHECK(rig.backend()["restarts"] == 5);
}

TEST_CASE("a raw file is resized, and one resized from outside is told and not adopted", "[file]") {
  TempDir dir;
  auto loop = *Loop::create();
  auto io = *AsyncIo::create(*loop);
  Fd fd(open(dir.path("f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(ftruncate(fd.get(), 1 << 20) == 0);
  const int raw = fd.get();
  auto disk = make_file_disk(std::move(fd), geometry_of(1 << 20), *io);
  CHECK(disk->resize(2 << 20));
  CHECK(disk->geometry().size == 2 << 20);
  struct stat st {};
  REQUIRE(fstat(raw, &st) == 0);
  CHECK(st.st_size == 2 << 20);
  CHECK(disk->resize(1000).error().code == Code::invalid);
  REQUIRE(ftruncate(raw, 3 << 20) == 0);
  json out;
  disk->inspect(out);
  CHECK(out["backend"]["resized_outside"] == true);
  CHECK(out["backend"]["backing_size_bytes"] == 3 << 20);
  CHECK(disk->geometry().size == 2 << 20);
}
