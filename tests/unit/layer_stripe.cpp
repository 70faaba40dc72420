// SPDX-License-Identifier: MIT
// If this fails, a striped disk puts a byte on the wrong member, reports less than the truth of its
// members, or takes members that cannot be striped.
#include <algorithm>
#include <cerrno>
#include <map>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

Geometry sized(uint64_t size) {
  Geometry geometry;
  geometry.size = size;
  return geometry;
}

// One member; keeps what was asked of it and may hold its completions back.
struct Member final : Forward {
  using Forward::Forward;
  Geometry said = lower().geometry();
  std::vector<std::pair<Op, std::pair<uint64_t, uint64_t>>> asked;
  bool lent = false;
  bool hold = false, fixed = false;
  int error = 0;
  std::vector<Request*> held;
  const Geometry& geometry() const override { return said; }
  void submit(Request& request) override {
    asked.push_back({request.op, {request.offset, request.length}});
    lent = lent || request.loan != nullptr;
    if (hold) return held.push_back(&request);
    if (error != 0) return request.done(request, error);
    lower().submit(request);
  }
  Result<> resize(uint64_t size) override {
    if (fixed) return fail(Code::unsupported, "fixed");
    TRY(lower().resize(size));
    said.size = size;
    return {};
  }
};

struct StripeRig : Opener {
  std::map<std::string, std::unique_ptr<Member>> ready;
  std::map<std::string, Member*> members;
  std::unique_ptr<Loop> loop = *Loop::create();
  std::unique_ptr<Disk> disk;

  void add(const std::string& path, const Geometry& geometry) {
    ready[path] = std::make_unique<Member>(*make_memory_disk(geometry));
    members[path] = ready[path].get();
  }
  Result<std::unique_ptr<Disk>> image(const std::string& path, bool, const std::string&) override {
    if (!ready[path]) return fail(Code::no_image, "no image " + path);
    return std::move(ready[path]);
  }
  Result<AsyncIo*> async_io() override { return fail(Code::bug, "none"); }
  Result<> build(const std::string& text) {
    const std::vector<LayerSpec> specs = {*parse_layer(text)};
    TRY_ASSIGN(disk, build_stack(std::move(ready["a"]), specs,
                                 {system_clock(), *loop, loop.get(), 0, this}, true));
    return {};
  }
  int run(Io& io) {
    disk->submit(io.request);
    return io.completions == 1 ? io.error : -2;
  }
};

struct Three : StripeRig {
  Three() {
    for (const char* path : {"a", "b", "c"}) add(path, sized((1 << 20) + 512));
    REQUIRE(build("stripe:with=b+c,chunk=4K"));
  }
};

std::string refusal(const std::string& text, const Geometry& first, const Geometry& second) {
  StripeRig rig;
  rig.add("a", first);
  rig.add("b", second);
  const auto built = rig.build(text);
  return built ? "taken"
               : std::string(code_name(built.error().code)) + ": " + built.error().message;
}

}  // namespace

TEST_CASE("chunk i lies on member i modulo n, and the ragged tails are left out", "[stripe]") {
  Three rig;
  CHECK(rig.disk->geometry().size == 3 << 20);
  for (uint64_t chunk = 0; chunk < 9; ++chunk) {
    Io io(Op::write, chunk * 4096, 4096);
    std::fill(io.data.begin(), io.data.end(), static_cast<char>('0' + chunk));
    CHECK(rig.run(io) == 0);
  }
  const char* names[] = {"a", "b", "c"};
  for (uint64_t chunk = 0; chunk < 9; ++chunk) {
    Io io(Op::read, chunk / 3 * 4096, 4096);
    rig.members[names[chunk % 3]]->submit(io.request);
    CHECK(io.bytes() == std::string(4096, static_cast<char>('0' + chunk)));
  }
}

TEST_CASE("a long request becomes one per member, without copying", "[stripe]") {
  Three rig;
  for (const Op op : {Op::write, Op::read, Op::zero, Op::discard, Op::flush}) {
    for (auto& [name, member] : rig.members) member->asked.clear();
    Io io(op, 2048, op == Op::flush ? 0 : 60 * 4096);
    CHECK(rig.run(io) == 0);
    for (auto& [name, member] : rig.members) {
      INFO(op_name(op) << " on " << name);
      CHECK(member->asked.size() == 1);
    }
  }
  using At = std::pair<uint64_t, uint64_t>;
  rig.members["a"]->asked.clear();
  Io io(Op::zero, 2048, 60 * 4096);
  CHECK(rig.run(io) == 0);
  CHECK(rig.members["a"]->asked.front().second == At{2048, 20 * 4096});
  CHECK(rig.members["b"]->asked.back().second == At{0, 20 * 4096});
}

TEST_CASE("more segments than one system call takes are spread over several requests", "[stripe]") {
  StripeRig rig;
  for (const char* path : {"a", "b"}) rig.add(path, sized(4 << 20));
  REQUIRE(rig.build("stripe:with=b,chunk=512"));
  Io io(Op::write, 0, 4 << 20);
  CHECK(rig.run(io) == 0);
  CHECK(rig.members["a"]->asked.size() == 4);  // 4096 chunks, 1024 in each
}

TEST_CASE("a loan passes within a chunk and not across two", "[stripe]") {
  Three rig;
  Loan loan;
  Io across(Op::read, 0, 8192), within(Op::read, 512, 1024);
  across.request.loan = within.request.loan = &loan;
  CHECK(rig.run(across) == 0);
  CHECK_FALSE((rig.members["a"]->lent || rig.members["b"]->lent));
  CHECK(rig.run(within) == 0);
  CHECK(rig.members["a"]->lent);
}

TEST_CASE("the first error in time is the answer, after the last piece has come back", "[stripe]") {
  Three rig;
  for (auto& [name, member] : rig.members) member->hold = true;
  Io io(Op::write, 0, 3 * 4096);
  rig.disk->submit(io.request);
  const auto release = [&](const char* name, int error) {
    Request* held = rig.members[name]->held.at(0);
    held->done(*held, error);
  };
  release("c", ENOSPC);
  release("a", EIO);
  CHECK(io.completions == 0);
  release("b", 0);
  CHECK(io.completions == 1);
  CHECK(io.error == ENOSPC);
}

TEST_CASE("a failing member fails what touches it and nothing else", "[stripe]") {
  Three rig;
  rig.members["b"]->error = EIO;
  Io first(Op::read, 0, 4096), second(Op::read, 4096, 512), all(Op::read, 0, 65536);
  Io flush(Op::flush, 0, 0);
  CHECK(rig.run(first) == 0);
  CHECK(rig.run(second) == EIO);
  CHECK(rig.run(all) == EIO);
  CHECK(rig.run(flush) == EIO);
}

TEST_CASE("a stripe says of itself what is true of all members", "[stripe]") {
  using D = DiscardBehaviour;
  const auto behaviour = [](D a, D b) {
    StripeRig rig;
    rig.add("a", sized(1 << 20));
    rig.add("b", sized(1 << 20));
    rig.members["a"]->said.discard = a;
    rig.members["b"]->said.discard = b;
    rig.members["a"]->said.id = {1, 2, 3};
    rig.members["b"]->said.fua = false;
    rig.members["b"]->said.discard_granularity = 4096;
    REQUIRE(rig.build("stripe:with=b"));
    CHECK(rig.disk->geometry().id == DiskId{});
    CHECK_FALSE(rig.disk->geometry().fua);
    CHECK(rig.disk->geometry().discard_granularity == 4096);
    return rig.disk->geometry().discard;
  };
  CHECK(behaviour(D::zeroes, D::zeroes) == D::zeroes);
  CHECK(behaviour(D::ignored, D::ignored) == D::ignored);
  CHECK(behaviour(D::zeroes, D::ignored) == D::unspecified);
  CHECK(behaviour(D::unspecified, D::zeroes) == D::unspecified);
}

TEST_CASE("members that differ are refused by everything in which they do", "[stripe]") {
  Geometry other = sized(1 << 19);
  other.sector_size = 4096;
  other.physical_sector_size = 8192;
  other.read_only = true;
  CHECK(refusal("stripe:with=b", sized(1 << 20), other) ==
        "invalid: layer 'stripe': members that differ: b has sector size 4096 instead of 512, "
        "physical sector size 8192 instead of 512, size 524288 instead of 1048576, read-only");
  const Geometry same = sized(1 << 20);
  for (const char* text :
       {"stripe", "stripe:chunk=4K", "stripe:with=", "stripe:with=b+", "stripe:with=b,chunk=0",
        "stripe:with=b,chunk=1000", "stripe:with=b,chunk=2G", "stripe:with=b,chunk=x"}) {
    INFO(text);
    CHECK(refusal(text, same, same).substr(0, 5) == "usage");
  }
  CHECK(refusal("stripe:with=nosuch", same, same).substr(0, 8) == "no_image");
  CHECK(refusal("stripe:with=b", sized(65536), sized(65536)).substr(0, 7) == "invalid");
}

TEST_CASE("all members are resized or none", "[stripe]") {
  Three rig;
  CHECK_FALSE(rig.disk->resize((3 << 20) + 4096));
  REQUIRE(rig.disk->resize(6 << 20));
  CHECK(rig.disk->geometry().size == 6 << 20);
  CHECK(rig.members["c"]->said.size == 2 << 20);
  rig.members["c"]->fixed = true;
  CHECK_FALSE(rig.disk->resize(9 << 20));
  CHECK(rig.disk->geometry().size == 6 << 20);
  for (auto& [name, member] : rig.members) CHECK(member->said.size == 2 << 20);
}

TEST_CASE("a plus sign in the path of a member is written twice", "[stripe]") {
  LayerSpec layer = *parse_layer("stripe:with=/x/a++b.img+/y/c,,d.img");
  CHECK(split_doubled(layer.params["with"], '+') ==
        std::vector<std::string>{"/x/a+b.img", "/y/c,d.img"});
  absolute_paths(layer);
  CHECK(layer_text(layer) == "stripe:with=/x/a++b.img+/y/c,,d.img");
  LayerSpec relative = *parse_layer("stripe:with=a+b");
  absolute_paths(relative);
  for (const std::string& path : split_doubled(relative.params["with"], '+')) CHECK(path[0] == '/');
}
