// SPDX-License-Identifier: MIT
// If this fails, what validates requests, layer specs or images lets something wrong through.
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/checked.hpp"
#include "blk/format.hpp"
#include "blk/image_lock.hpp"
#include "blk/registry.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

int refuse(const Geometry& geometry, Op op, uint64_t offset, uint64_t length) {
  Request request;
  request.op = op;
  request.offset = offset;
  request.length = length;
  std::vector<Extent> extents;
  request.extents = &extents;
  char byte = 0;
  const iovec piece{&byte, length};
  request.data = &piece;
  request.segments = 1;
  return validate(geometry, request);
}

}  // namespace

TEST_CASE("validation is exact at every border of a disk", "[blk]") {
  Geometry geometry;
  for (const uint64_t size : {uint64_t{512}, uint64_t{1} << 20, uint64_t{1} << 62,
                              uint64_t{INT64_MAX} & ~uint64_t{511}}) {
    geometry.size = size;
    for (const Op op : {Op::read, Op::write, Op::zero, Op::discard, Op::map, Op::cache}) {
      CHECK(refuse(geometry, op, 0, 512) == 0);
      CHECK(refuse(geometry, op, size - 512, 512) == 0);
      CHECK(refuse(geometry, op, size, 0) == 0);
      CHECK(refuse(geometry, op, size, 512) == ERANGE);
      CHECK(refuse(geometry, op, size - 512, 1024) == ERANGE);
      CHECK(refuse(geometry, op, 512, UINT64_MAX - 511) == ERANGE);
      CHECK(refuse(geometry, op, UINT64_MAX - 511, 512) == ERANGE);
      CHECK(refuse(geometry, op, UINT64_MAX, UINT64_MAX) == ERANGE);
      CHECK(refuse(geometry, op, 1, 511) == EINVAL);
    }
    CHECK(refuse(geometry, Op::flush, UINT64_MAX, UINT64_MAX) == 0);
  }
  geometry.read_only = true;
  CHECK(refuse(geometry, Op::write, 0, 512) == EROFS);
  CHECK(refuse(geometry, Op::read, 0, 512) == 0);
}

TEST_CASE("geometries that no disk has are refused", "[blk]") {
  const auto good = [](uint64_t size, uint32_t sector, uint32_t physical) {
    Geometry geometry;
    geometry.size = size;
    geometry.sector_size = sector;
    geometry.physical_sector_size = physical;
    return check_geometry(geometry).has_value();
  };
  CHECK(good(512, 512, 512));
  CHECK(good(4096, 512, 4096));
  CHECK(good(4096, 4096, 4096));
  CHECK_FALSE(good(0, 512, 512));
  CHECK_FALSE(good(511, 512, 512));
  CHECK_FALSE(good(1000, 512, 512));
  CHECK_FALSE(good(512, 0, 512));
  CHECK_FALSE(good(512, 256, 512));
  CHECK_FALSE(good(1536, 768, 768));
  CHECK_FALSE(good(4096, 4096, 512));
  CHECK_FALSE(good(4096, 512, 513));
  CHECK_FALSE(good(uint64_t{1} << 63, 512, 512));
}

TEST_CASE("layer specs are split and checked, and say what they would take", "[blk]") {
  const auto spec = parse_layer("delay:ms=5,ops=read+write");
  REQUIRE(spec);
  CHECK(spec->name == "delay");
  CHECK(spec->params == std::map<std::string, std::string>{{"ms", "5"}, {"ops", "read+write"}});
  CHECK(check_layers({&*spec, 1}));
  for (const char* text : {"", ":", ":a=b", "a b", "delay:", "delay:ms", "delay:=5", "delay:ms=1,",
                           "delay:ms=1,ms=1", "-x"}) {
    INFO(text);
    CHECK_FALSE(parse_layer(text));
  }
  const auto unknown = check_layers(std::array{*parse_layer("nosuch")});
  REQUIRE_FALSE(unknown);
  CHECK((*unknown.error().extra)["valid"].size() == layers().size());
  CHECK_FALSE(check_layers(std::array{*parse_layer("delay:sm=1")}));
}

TEST_CASE("a format is what is said, or what name and content agree on", "[blk]") {
  TempDir dir;
  const auto choose = [&](const char* name, std::string head, const char* given) -> std::string {
    head.resize(2048, '\0');
    const std::string path = dir.path(name);
    REQUIRE(write_file_atomic(path, head));
    Fd fd(open(path.c_str(), O_RDONLY));
    const auto format = choose_format(path, fd.get(), given);
    return format ? *format : "refused";
  };
  const std::string qcow2 = "QFI\xfb";
  CHECK(choose("a.img", "", "") == "raw");
  CHECK(choose("a", "", "") == "raw");
  CHECK(choose("a.qcow2", qcow2, "") == "qcow2");
  CHECK(choose("a.QCOW2", qcow2, "") == "qcow2");
  CHECK(choose("a.qcow2", "", "") == "refused");
  CHECK(choose("a.img", qcow2, "") == "refused");
  CHECK(choose("a.img", qcow2, "raw") == "raw");
  CHECK(choose("a.vmdk", qcow2, "") == "refused");
  CHECK(choose("a.vmdk", "KDMV", "") == "vmdk");
  CHECK(choose("a.img", "", "zip") == "refused");
  std::string fixed(2048, '\0');
  fixed.replace(1536, 8, "conectix");
  CHECK(choose("a.vhd", fixed, "") == "vpc");
  CHECK(choose("a.img", fixed, "") == "refused");
  for (const std::string& name : known_formats()) CHECK(choose("b", "", name.c_str()) == name);
}

TEST_CASE("image locks let readers together and a writer alone", "[blk]") {
  TempDir dir;
  const std::string path = dir.path("image");
  REQUIRE(write_file_atomic(path, std::string(512, 'x')));
  const auto open_it = [&] { return Fd(open(path.c_str(), O_RDWR | O_CLOEXEC)); };
  Fd a = open_it(), b = open_it(), c = open_it();
  REQUIRE(lock_image(a.get(), true, path));
  REQUIRE(lock_image(b.get(), true, path));
  const auto writer = lock_image(c.get(), false, path);
  REQUIRE_FALSE(writer);
  CHECK(writer.error().code == Code::in_use);
  a.reset();
  b.reset();
  c = open_it();
  REQUIRE(lock_image(c.get(), false, path));
  Fd d = open_it(), e = open_it();
  CHECK_FALSE(lock_image(d.get(), false, path));
  CHECK_FALSE(lock_image(e.get(), true, path));
}

TEST_CASE("a file that was cut reads as zeroes there and is told apart", "[blk]") {
  auto loop = *Loop::create();
  auto io = *AsyncIo::create(*loop);
  TempDir dir;
  Fd fd(open(dir.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const int raw = fd.get();
  REQUIRE(write_all(raw, std::string(8192, 'x')));
  Geometry geometry;
  geometry.size = 8192;
  auto disk = make_checked(make_file_disk(std::move(fd), geometry, *io));
  REQUIRE(ftruncate(raw, 700) == 0);
  Io read(Op::read, 512, 1024);
  read.split_into({100, 500});
  disk->submit(read.request);
  for (const Deadline deadline = Deadline::in_ms(20'000);
       read.completions == 0 && !deadline.passed();)
    REQUIRE(loop->run_once(100));
  CHECK(read.error == 0);
  CHECK(read.bytes() == std::string(188, 'x') + std::string(836, '\0'));
  json shown;
  disk->inspect(shown);
  CHECK(shown["backend"]["bytes_zero_filled"] == 836);
}
