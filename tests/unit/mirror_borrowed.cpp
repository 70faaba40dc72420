// SPDX-License-Identifier: MIT
// If this fails, a server that compares mapped files dies when somebody cuts one of them.
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "blk/mirror/borrowed.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

TEST_CASE("bytes that go away while they are looked at are an answer", "[mirror]") {
  catch_bus_errors();
  TempDir dir;
  const Fd file(open(dir.path("f").c_str(), O_RDWR | O_CREAT, 0600));
  REQUIRE(ftruncate(file.get(), 65536) == 0);
  auto* mapped = static_cast<char*>(mmap(nullptr, 65536, PROT_READ, MAP_SHARED, file.get(), 0));
  std::string other(65536, '\0');
  CHECK(compare_borrowed(mapped, other.data(), 65536) == Compared::equal);
  other[60000] = 1;
  CHECK(compare_borrowed(mapped, other.data(), 65536) == Compared::different);
  other[60000] = 0;
  for (int again = 0; again < 3; ++again) {
    REQUIRE(ftruncate(file.get(), 4096) == 0);
    CHECK(compare_borrowed(mapped, other.data(), 65536) == Compared::gone);
    CHECK_FALSE(copy_borrowed(other.data(), mapped, 65536));
    CHECK(compare_borrowed(mapped, other.data(), 4096) == Compared::equal);
    REQUIRE(ftruncate(file.get(), 65536) == 0);
    CHECK(copy_borrowed(other.data(), mapped, 65536));
  }
  munmap(mapped, 65536);
}
