// SPDX-License-Identifier: MIT
// If this fails, a disk in memory forgets data, keeps what was cut off, or takes room for holes.
#include <algorithm>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "blk/backend/memory.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

std::unique_ptr<Disk> memory_of(uint64_t size) {
  Geometry geometry;
  geometry.size = size;
  return *make_memory_disk(geometry);
}

uint64_t allocated(const Disk& disk) {
  json shown;
  disk.inspect(shown);
  return shown["backend"]["allocated_bytes"];
}

std::string read(Disk& disk, uint64_t offset, uint64_t length) {
  Io io(Op::read, offset, length);
  disk.submit(io.request);
  return io.bytes();
}

void write(Disk& disk, uint64_t offset, const std::string& bytes) {
  Io io(Op::write, offset, bytes.size());
  std::copy(bytes.begin(), bytes.end(), io.data.begin());
  disk.submit(io.request);
}

}  // namespace

TEST_CASE("a disk in memory grows with zeroes and forgets what is cut off", "[blk]") {
  auto disk = memory_of(1 << 20);
  write(*disk, (1 << 20) - 4096, std::string(4096, 'x'));
  REQUIRE(disk->resize(3 << 20));
  CHECK(disk->geometry().size == 3 << 20);
  CHECK(read(*disk, (1 << 20) - 512, 1024) == std::string(512, 'x') + std::string(512, '\0'));
  write(*disk, 2 << 20, std::string(1 << 20, 'y'));
  REQUIRE(disk->resize((1 << 20) - 2048));
  REQUIRE(disk->resize(3 << 20));
  CHECK((read(*disk, (1 << 20) - 2048, 2 << 20) == std::string(2 << 20, '\0')));
  CHECK(read(*disk, (1 << 20) - 2560, 512) == std::string(512, 'x'));
  CHECK(disk->resize(1000).error().code == Code::invalid);
  CHECK(disk->resize(uint64_t{1} << 50).error().code == Code::unsupported);
  CHECK(disk->geometry().size == 3 << 20);
}

TEST_CASE("a huge disk in memory takes room for what was written only", "[blk]") {
#ifdef __SANITIZE_THREAD__
  constexpr uint64_t k_unit = uint64_t{1} << 36;  // its shadow leaves no room for more
#else
  constexpr uint64_t k_unit = uint64_t{1} << 40;
#endif
  auto disk = memory_of(8 * k_unit);
  CHECK(allocated(*disk) == 0);
  write(*disk, 7 * k_unit, std::string(4096, 'x'));
  CHECK(allocated(*disk) == 65'536);
  CHECK(read(*disk, 3 * k_unit, 4096) == std::string(4096, '\0'));
  Io discard(Op::discard, 7 * k_unit, 65'536);
  disk->submit(discard.request);
  CHECK(allocated(*disk) == 0);
  CHECK(read(*disk, 7 * k_unit, 4096) == std::string(4096, '\0'));
}
