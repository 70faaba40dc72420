// SPDX-License-Identifier: MIT
// If this fails, an independent NBD client (libnbd) sees another disk than the one behind our front
// end: wrong data, wrong errors, a lost connection.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "blk/wire.hpp"
#include "libnbd.hpp"
#include "support.hpp"

namespace {

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

const LibNbd& api() {
  return libnbd();
}

Geometry geometry_of(uint64_t size) {
  Geometry geometry;
  geometry.size = size;
  return geometry;
}

// A server over memory, and one connection to it.
struct Session {
  TempDir dir;
  std::unique_ptr<ServerThread> server;
  nbd_handle* nbd = nullptr;

  explicit Session(std::unique_ptr<Disk> disk, bool structured = true) {
    server = std::make_unique<ServerThread>(dir.path("s"), std::move(disk));
    nbd = connect(structured);
  }
  ~Session() {
    api().nbd_close(nbd);
    server.reset();
  }
  nbd_handle* connect(bool structured) const {
    nbd_handle* handle = api().nbd_create();
    REQUIRE(handle != nullptr);
    api().nbd_set_strict_mode(handle, 0);  // the server is to say what is wrong, not the client
    api().nbd_set_request_structured_replies(handle, structured);
    api().nbd_add_meta_context(handle, "base:allocation");
    REQUIRE(api().nbd_connect_unix(handle, dir.path("s").c_str()) == 0);
    return handle;
  }
};

std::unique_ptr<Disk> memory_stack(uint64_t size) {
  static auto loop = *Loop::create();
  auto stack =
      build_stack(*make_memory_disk(geometry_of(size)), {}, {system_clock(), *loop, loop.get(), 0});
  REQUIRE(stack);
  return std::move(*stack);
}

// 0, or the errno that libnbd reports.
int outcome(int result) {
  return result == 0 ? 0 : api().nbd_get_errno();
}

// Fails everything of one kind.
struct Failing final : Forward {
  using Forward::Forward;
  std::atomic<int> error{0};
  void submit(Request& request) override {
    if (const int with = error.load()) return request.done(request, with);
    lower().submit(request);
  }
};

}  // namespace

TEST_CASE("libnbd reads back what it has written, with simple and structured replies",
          "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (const bool structured : {true, false}) {
    Session session(memory_stack(k_conform_size), structured);
    CHECK(api().nbd_get_size(session.nbd) == static_cast<int64_t>(k_conform_size));
    CHECK(api().nbd_is_read_only(session.nbd) == 0);
    CHECK(api().nbd_can_multi_conn(session.nbd) == 1);
    const std::string all = random_bytes(rng, k_conform_size);
    CHECK(api().nbd_pwrite(session.nbd, all.data(), all.size(), 0, 0) == 0);
    std::string back(all.size(), '\0');
    CHECK(api().nbd_pread(session.nbd, back.data(), back.size(), 0, 0) == 0);
    CHECK((back == all));
    CHECK(api().nbd_flush(session.nbd, 0) == 0);
    CHECK(api().nbd_cache(session.nbd, 4096, 0, 0) == 0);
  }
}

TEST_CASE("ranges past the end fail for libnbd and leave data and connection alone", "[conform]") {
  const uint64_t size = k_conform_size;
  Session session(memory_stack(size));
  std::string bytes(4096, 'x');
  const auto past = {std::pair<uint64_t, size_t>{size, 512},
                     {size - 512, 1024},
                     {UINT64_MAX & ~511ULL, 512},
                     {1ULL << 63, 512},
                     {size + 512, 512}};
  for (const auto& [offset, length] : past) {
    INFO(offset << "+" << length);
    CHECK(outcome(api().nbd_pread(session.nbd, bytes.data(), length, offset, 0)) == EINVAL);
    CHECK(outcome(api().nbd_pwrite(session.nbd, bytes.data(), length, offset, 0)) == ENOSPC);
    CHECK(outcome(api().nbd_zero(session.nbd, length, offset, 0)) == ENOSPC);
    CHECK(outcome(api().nbd_trim(session.nbd, length, offset, 0)) == EINVAL);
  }
  for (const auto& [offset, length] : {std::pair<uint64_t, size_t>{1, 512}, {0, 511}, {512, 100}}) {
    CHECK(outcome(api().nbd_pread(session.nbd, bytes.data(), length, offset, 0)) == EINVAL);
    CHECK(outcome(api().nbd_pwrite(session.nbd, bytes.data(), length, offset, 0)) == EINVAL);
  }
  CHECK(outcome(api().nbd_pread(session.nbd, bytes.data(), 0, 0, 0)) == EINVAL);
  std::string all(size, 'x');
  CHECK(api().nbd_pread(session.nbd, all.data(), size, 0, 0) == 0);
  CHECK((all == std::string(size, '\0')));
}

TEST_CASE("a write that is too large is refused and its data is skipped", "[conform]") {
  Session session(memory_stack(80 << 20));
  const std::string big((32 << 20) + 512, 'x');
  CHECK(outcome(api().nbd_pwrite(session.nbd, big.data(), big.size(), 0, 0)) == EINVAL);
  CHECK(api().nbd_pwrite(session.nbd, big.data(), 32 << 20, 0, 0) == 0);
  std::string back(512, '\0');
  CHECK(api().nbd_pread(session.nbd, back.data(), 512, (32 << 20) - 512, 0) == 0);
  CHECK(back == std::string(512, 'x'));
  CHECK(api().nbd_zero(session.nbd, 80 << 20, 0, 0) == 0);
  CHECK(api().nbd_pread(session.nbd, back.data(), 512, 0, 0) == 0);
  CHECK(back == std::string(512, '\0'));
}

TEST_CASE("block status covers exactly what was asked and calls no data a hole", "[conform]") {
  Session session(memory_stack(16 << 20));
  const std::string bytes(65'536, 'x');
  REQUIRE(api().nbd_pwrite(session.nbd, bytes.data(), bytes.size(), 4 << 20, 0) == 0);
  struct Seen {
    uint64_t covered = 0, data = 0;
    int calls = 0;
  } seen;
  const auto extents = [](void* user, const char* context, uint64_t, uint32_t* entries, size_t n,
                          int*) {
    auto& s = *static_cast<Seen*>(user);
    ++s.calls;
    if (std::string(context) != "base:allocation") s.calls += 100;
    for (size_t i = 0; i + 1 < n; i += 2) {
      s.covered += entries[i];
      if (entries[i + 1] == 0) s.data += entries[i];
    }
    return 0;
  };
  CHECK(api().nbd_block_status(session.nbd, 16 << 20, 0, {extents, &seen, nullptr}, 0) == 0);
  CHECK(seen.calls == 1);
  CHECK(seen.covered == 16 << 20);
  CHECK(seen.data == 65'536);
  CHECK(outcome(api().nbd_block_status(session.nbd, 512, 16 << 20, {extents, &seen, nullptr}, 0)) ==
        EINVAL);
}

TEST_CASE("a map above 4 GiB keeps every extent at its place", "[conform]") {
  // One long extent of data up to 2^32, a hole behind it: lengths that do not fit 32 bits less a
  // page must not shift what follows.
  struct Striped final : Forward {
    using Forward::Forward;
    void submit(Request& request) override {
      if (request.op != Op::map) return lower().submit(request);
      const uint64_t border = 1ULL << 32, end = request.offset + request.length;
      if (request.offset < border)
        request.extents->push_back({std::min(border, end) - request.offset, 0});
      if (end > border)
        request.extents->push_back({end - std::max(border, request.offset), k_hole | k_zero});
      request.done(request, 0);
    }
  };
  Session session(std::make_unique<Striped>(memory_stack(8ULL << 30)));
  struct Seen {
    uint64_t at = 0x800;
    bool wrong = false;
  } seen;
  const auto extents = [](void* user, const char*, uint64_t, uint32_t* entries, size_t n, int*) {
    auto& s = *static_cast<Seen*>(user);
    for (size_t i = 0; i + 1 < n; i += 2) {
      if (entries[i + 1] != 0 && s.at < 1ULL << 32) s.wrong = true;
      s.at += entries[i];
    }
    return 0;
  };
  CHECK(api().nbd_block_status(session.nbd, 0xfffffe00, 0x800, {extents, &seen, nullptr}, 0) == 0);
  CHECK_FALSE(seen.wrong);
}

TEST_CASE("each errno arrives as the table says, and the connection survives it", "[conform]") {
  for (const bool structured : {true, false}) {
    auto failing = std::make_unique<Failing>(memory_stack(k_conform_size));
    Failing& disk = *failing;
    Session session(std::move(failing), structured);
    std::string bytes(512, 'x');
    for (const int error :
         {EIO, EPERM, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN, EROFS, ERANGE, EDQUOT,
          EFBIG, ETIMEDOUT, ENODEV, EBUSY, EREMOTEIO, EHWPOISON}) {
      INFO(errno_name(error) << (structured ? ", structured" : ", simple"));
      disk.error = error;
      CHECK(outcome(api().nbd_pread(session.nbd, bytes.data(), 512, 0, 0)) ==
            delivered(Front::nbd, Op::read, error));
      CHECK(outcome(api().nbd_pwrite(session.nbd, bytes.data(), 512, 0, 0)) ==
            delivered(Front::nbd, Op::write, error));
      CHECK(outcome(api().nbd_flush(session.nbd, 0)) == delivered(Front::nbd, Op::flush, error));
      CHECK(outcome(api().nbd_trim(session.nbd, 512, 0, 0)) ==
            delivered(Front::nbd, Op::discard, error));
      disk.error = 0;
      CHECK(api().nbd_pread(session.nbd, bytes.data(), 512, 0, 0) == 0);
    }
  }
}

TEST_CASE("hundreds of requests in flight on two connections all come back", "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  constexpr size_t k_requests = 400, k_length = 32'768;
  Session session(memory_stack(k_requests * k_length));
  nbd_handle* other = session.connect(false);
  std::vector<std::string> data;
  std::vector<int64_t> cookies;
  const auto drain = [&](nbd_handle* handle) {
    for (const int64_t cookie : cookies) {
      int done = 0;
      while ((done = api().nbd_aio_command_completed(handle, static_cast<uint64_t>(cookie))) == 0)
        REQUIRE(api().nbd_poll(handle, 20'000) >= 0);
      CHECK(done == 1);
    }
    cookies.clear();
  };
  for (size_t i = 0; i < k_requests; ++i) {
    data.push_back(random_bytes(rng, k_length));
    cookies.push_back(api().nbd_aio_pwrite(session.nbd, data[i].data(), k_length, i * k_length,
                                           NBD_NULL_COMPLETION, 0));
  }
  drain(session.nbd);
  std::vector<std::string> back(k_requests, std::string(k_length, '\0'));
  for (size_t i = 0; i < k_requests; ++i)
    cookies.push_back(
        api().nbd_aio_pread(other, back[i].data(), k_length, i * k_length, NBD_NULL_COMPLETION, 0));
  drain(other);
  CHECK((back == data));
  api().nbd_close(other);
}
