// SPDX-License-Identifier: MIT
// If this fails, an overlay's map or its file is wrong, requests that meet in one block spoil each
// other, a resized overlay shows what it had cut off, or a read cache believes what is stale.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>

#include "../catch.hpp"
#include "../conform/patience.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "blk/backend/memory.hpp"
#include "blk/cow/disk.hpp"
#include "blk/registry.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

// Holds requests of one kind until they are let go, and fails what it is told to.
class Gate final : public Forward {
 public:
  using Forward::Forward;
  void submit(Request& request) override {
    if (error != 0 && request.op == op) return request.done(request, error);
    if (hold && request.op == op) return held.push_back(&request);
    lower().submit(request);
  }
  void open() {
    hold = false;
    for (Request* request : std::exchange(held, {})) lower().submit(*request);
  }
  Op op = Op::read;
  bool hold = false;
  int error = 0;
  std::vector<Request*> held;
};

struct CowRig {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  FileOpener opener{*loop};
  Gate* gate = nullptr;
  std::unique_ptr<Disk> disk;

  Result<> open(const std::string& text, uint64_t size = 1 << 20, char fill = 'b') {
    disk.reset();
    Geometry geometry;
    geometry.size = size;
    auto memory = *make_memory_disk(geometry);
    Io io(Op::write, 0, size);
    io.data.assign(size, fill);
    memory->submit(io.request);
    auto gated = std::make_unique<Gate>(std::move(memory));
    gate = gated.get();
    std::vector<LayerSpec> layers = {*parse_layer(text)};
    const Env env{system_clock(), *loop, loop.get(), 7, &opener};
    TRY_ASSIGN(disk, build_stack(std::move(gated), layers, env));
    return {};
  }
  int run(Io& io) {
    disk->submit(io.request);
    run_until(*loop, [&] { return io.completions != 0; });
    return io.completions == 1 ? io.error : -2;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    return run(io) == 0 ? io.bytes() : "";
  }
  std::unique_ptr<Io> write(uint64_t offset, uint64_t length, char c) {
    auto io = std::make_unique<Io>(Op::write, offset, length);
    io->data.assign(length, c);
    disk->submit(io->request);
    return io;
  }
  json layer(const char* name) {
    json shown;
    disk->inspect(shown);
    return shown[name];
  }
  std::string over() const { return "cow:file=" + dir.path("over"); }
};

std::string text(char c, size_t count) {
  return std::string(count, c);
}

}  // namespace

TEST_CASE("headers and pages are good, blank or bad, and any flipped byte is noticed", "[cow]") {
  CowHeader header, back;
  header.block = 65536;
  header.size = 5ULL << 40;
  header.sequence = 9;
  header.id = UINT64_MAX;
  header.base = {1 << 20, 1 << 20, 123, 4, 5, true};
  header.base_limit = 1 << 20;
  std::array<char, k_cow_page> bytes{};
  CHECK(decode_header(bytes.data(), back) == Decoded::blank);
  encode_header(header, bytes.data());
  REQUIRE(decode_header(bytes.data(), back) == Decoded::good);
  CHECK(back.size == header.size);
  CHECK(back.base.whole);
  CHECK_FALSE(back.closed);
  CHECK(back.base.mtime_ns == 123);
  for (size_t i = 0; i < k_cow_header_sector; ++i) {
    bytes[i] ^= 0x40;
    CHECK(decode_header(bytes.data(), back) == Decoded::bad);
    bytes[i] ^= 0x40;
  }
  uint64_t sequence = 0;
  seal_page(bytes.data(), 7, 3, 42);
  CHECK(check_page(bytes.data(), 7, 3, sequence) == Decoded::good);
  CHECK(sequence == 42);
  CHECK(check_page(bytes.data(), 7, 4, sequence) == Decoded::bad);
  CHECK(check_page(bytes.data(), 8, 3, sequence) == Decoded::bad);
  bytes[4095] ^= 1;
  CHECK(check_page(bytes.data(), 7, 3, sequence) == Decoded::bad);
}

TEST_CASE("runs of states are those of an array", "[cow]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  TempDir dir;
  auto loop = *Loop::create();
  FileOpener opener(*loop);
  CowHeader header;
  header.block = k_cow_min_block;
  header.size = (2 * k_cow_group + 77) * header.block;
  auto map = *CowMap::create(*open_cow_store(dir.path("over"), false, **opener.async_io()), header);
  const uint64_t blocks = header.size / header.block;
  std::vector<BlockState> model(blocks);
  for (int i = 0; i < 300; ++i) {
    const uint64_t from = rng.below(blocks), count = 1 + rng.below(1 + rng.below(blocks - from));
    const auto state = static_cast<BlockState>(1 + rng.below(2));
    map->set(from, from + count, state);
    std::fill_n(model.begin() + static_cast<ptrdiff_t>(from), count, state);
    for (int look = 0; look < 20; ++look) {
      const uint64_t at = rng.below(blocks);
      uint64_t end = at;
      while (end < blocks && model[end] == model[at]) ++end;
      REQUIRE(map->state(at) == model[at]);
      REQUIRE(map->run_end(at, blocks) == end);
    }
  }
  const uint64_t data = map->data_blocks(), zero = map->zero_blocks();
  map.reset();
  map = *CowMap::open(*open_cow_store(dir.path("over"), false, **opener.async_io()));
  CHECK(map->data_blocks() == data);
  CHECK(map->zero_blocks() == zero);
}

TEST_CASE("writes that meet in a block while it is copied lose nothing", "[cow]") {
  CowRig rig;
  REQUIRE(rig.open(rig.over()));
  rig.gate->hold = true;
  auto a = rig.write(512, 512, '1');
  auto b = rig.write(1024, 512, '2');
  auto whole = rig.write(0, 4096, '3');
  auto c = rig.write(2048, 512, '4');
  auto elsewhere = rig.write(8192, 4096, '5');
  CHECK(elsewhere->completions == 1);  // what does not meet them does not wait
  CHECK(a->completions + b->completions + whole->completions + c->completions == 0);
  rig.gate->open();
  for (const auto* io : {&a, &b, &whole, &c}) CHECK((*io)->completions == 1);
  CHECK(rig.read(0, 4096) == text('3', 2048) + text('4', 512) + text('3', 1536));
}

TEST_CASE("a base that cannot be read fails the write and changes nothing", "[cow]") {
  CowRig rig;
  REQUIRE(rig.open(rig.over()));
  rig.gate->error = EIO;
  auto a = rig.write(512, 512, '1');
  auto b = rig.write(4096, 4096, '2');
  CHECK(a->error == EIO);
  CHECK(b->error == 0);
  rig.gate->error = 0;
  CHECK(rig.read(0, 8192) == text('b', 4096) + text('2', 4096));
}

TEST_CASE("what a smaller size cut off is gone when the disk grows again", "[cow]") {
  CowRig rig;
  REQUIRE(rig.open(rig.over()));
  CHECK(rig.write(600 * 1024, 8192, 'x')->error == 0);
  REQUIRE(rig.disk->resize(512 * 1024 + 512));
  CHECK(rig.disk->geometry().size == 512 * 1024 + 512);
  REQUIRE(rig.disk->resize(2 << 20));
  const auto good = [&] {
    return rig.read(0, 2 << 20) ==
           text('b', 512 * 1024 + 512) + text('\0', (2 << 20) - 512 * 1024 - 512);
  };
  CHECK(good());
  REQUIRE(rig.open(rig.over()));
  CHECK(rig.disk->geometry().size == 2 << 20);
  CHECK(good());
  CHECK_FALSE(rig.disk->resize(1000));
  CHECK_FALSE(rig.disk->resize(0));
}

TEST_CASE("a base without a file is known by its content", "[cow]") {
  CowRig rig;
  REQUIRE(rig.open(rig.over()));
  REQUIRE(rig.open(rig.over()));
  const auto other = rig.open(rig.over(), 1 << 20, 'c');
  REQUIRE_FALSE(other);
  CHECK(other.error().code == Code::invalid);
  CHECK(rig.open(rig.over() + ",rebase=yes", 1 << 20, 'c'));
  CHECK(rig.open(rig.over(), 1 << 20, 'c'));
}

TEST_CASE("a cached read never meets the slow disk; the rest does", "[readcache]") {
  CowRig rig;
  REQUIRE(rig.open("readcache:size=64k"));
  CHECK(rig.read(4096, 8192) == text('b', 8192));
  rig.gate->error = EIO;
  CHECK(rig.read(4096, 8192) == text('b', 8192));
  CHECK(rig.read(4608, 512) == text('b', 512));
  CHECK(rig.read(4096, 8704) == "");
  rig.gate->error = 0;
  for (uint64_t at = 0; at < 1 << 20; at += 4096) CHECK(rig.read(at, 4096) == text('b', 4096));
  CHECK(rig.layer("readcache")["cached_bytes"] <= 64 << 10);
  CHECK(rig.layer("readcache")["dropped_bytes"] > 0);
}

TEST_CASE("a read that a write overtakes does not fill the cache", "[readcache]") {
  CowRig rig;
  REQUIRE(rig.open("readcache:populate=both"));
  rig.gate->hold = true;
  Io slow(Op::read, 0, 8192);
  rig.disk->submit(slow.request);
  CHECK(rig.write(4096, 4096, 'n')->error == 0);
  rig.gate->open();
  CHECK(slow.completions == 1);
  CHECK(rig.read(0, 8192) == text('b', 4096) + text('n', 4096));
  CHECK(rig.read(0, 8192) == text('b', 4096) + text('n', 4096));
}

TEST_CASE("writes of the same sectors at once leave nothing stale in the cache", "[readcache]") {
  CowRig rig;
  REQUIRE(rig.open("readcache:populate=both"));
  CHECK(rig.read(0, 4096) == text('b', 4096));
  rig.gate->op = Op::write;
  rig.gate->hold = true;
  auto a = rig.write(0, 4096, '1');
  auto b = rig.write(512, 512, '2');
  std::swap(rig.gate->held[0], rig.gate->held[1]);
  rig.gate->open();
  CHECK(a->completions + b->completions == 2);
  CHECK(rig.read(0, 4096) == text('1', 4096));
  rig.gate->error = EIO;
  auto failed = rig.write(0, 4096, '3');
  CHECK(failed->error == EIO);
  CHECK(rig.read(0, 4096) == text('1', 4096));
}
