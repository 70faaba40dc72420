// SPDX-License-Identifier: MIT
// The hash of a file: the same for the same bytes wherever the holes are, another for any other. If
// this failed, a snapshot copied with its holes filled would count as damaged, or damage as whole.
#include <fcntl.h>
#include <unistd.h>

#include "../catch.hpp"
#include "base/fd.hpp"
#include "base/hash.hpp"

using namespace pv;

namespace {

Fd temporary() {
  char name[] = "/tmp/pv-hash.XXXXXX";
  Fd fd(mkostemp(name, O_CLOEXEC));
  unlink(name);
  return fd;
}

std::string hash(const Fd& fd) {
  return hash_of_file(fd.get(), "a file").value();
}

}  // namespace

TEST_CASE("a file's hash does not depend on its holes, only on its bytes and length") {
  constexpr off_t k_size = 1 << 20;
  const Fd sparse = temporary(), full = temporary();
  REQUIRE(ftruncate(sparse.get(), k_size) == 0);
  const std::string zeroes(k_size, '\0');
  REQUIRE(pwrite(full.get(), zeroes.data(), zeroes.size(), 0) == k_size);
  CHECK(hash(sparse) == hash(full));
  for (const off_t at : {off_t{0}, off_t{65535}, off_t{70000}, k_size - 1}) {
    const std::string before = hash(sparse);
    REQUIRE(pwrite(sparse.get(), "x", 1, at) == 1);
    CHECK(hash(sparse) != before);
    REQUIRE(pwrite(full.get(), "x", 1, at) == 1);
    CHECK(hash(sparse) == hash(full));
  }
  REQUIRE(ftruncate(sparse.get(), k_size + 1) == 0);
  CHECK(hash(sparse) != hash(full));
  CHECK(hash(temporary()) != hash(full));
}

TEST_CASE("bytes that have moved by a block are another file") {
  const Fd one = temporary(), other = temporary();
  REQUIRE(ftruncate(one.get(), 1 << 20) == 0);
  REQUIRE(ftruncate(other.get(), 1 << 20) == 0);
  REQUIRE(pwrite(one.get(), "x", 1, 0) == 1);
  REQUIRE(pwrite(other.get(), "x", 1, 65536) == 1);
  CHECK(hash(one) != hash(other));
}
