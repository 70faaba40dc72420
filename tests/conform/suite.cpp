// SPDX-License-Identifier: MIT
// If this fails, a stack of layers does something that the back end alone would not, or a back end
// breaks the contract of blk/disk.hpp. PV_CONFORM_MATRIX=1 prints the matrix of what was run.
#include <csignal>
#include <cstdlib>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <fmt/format.h>

#include "blk/backend/memory.hpp"
#include "blk/checked.hpp"
#include "support.hpp"

namespace {

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

Geometry conform_geometry() {
  Geometry geometry;
  geometry.size = k_conform_size;
  return geometry;
}

Wrongs run_all(const std::string& backend, const std::string& stack, uint64_t seed,
               WrapBottom wrap = nullptr) {
  Wrongs wrong;
  for (const Check& check : checks()) {
    Bench bench(backend, stack, conform_geometry(), wrap);
    Rng rng(mix(seed, 1));
    Wrongs here;
    check.run(bench, rng, here);
    for (const std::string& text : here)
      if (wrong.size() < 20) wrong.push_back(fmt::format("{}: {}", check.name, text));
  }
  return wrong;
}

void show(const std::string& backend, const std::string& stack, const Wrongs& wrong) {
  if (getenv("PV_CONFORM_MATRIX") == nullptr) return;
  fmt::print("{:<8} {:<12} {}\n", backend, stack,
             wrong.empty() ? fmt::format("{} checks hold", checks().size()) : wrong.front());
}

// Layers that are wrong on purpose.
template <int Kind>
struct Broken final : Forward {
  using Forward::Forward;
  int calls = 0;
  void submit(Request& request) override {
    ++calls;
    if (Kind == 0 && request.op == Op::zero) return request.done(request, 0);
    if (Kind == 1 && request.op == Op::write && request.offset == 66'048) {
      request.offset += 512;  // misdirected
      lower().submit(request);
      request.offset -= 512;
      return;
    }
    if (Kind == 2 && request.op == Op::read && calls % 50 == 0)
      return request.done(request, 0);  // stale buffer
    if (Kind == 3 && request.op == Op::map) {
      request.extents->push_back({request.length, k_hole | k_zero});
      return request.done(request, 0);
    }
    if (Kind == 4 && request.op == Op::flush) return request.done(request, EIO);
    if (Kind == 5 && request.segments > 1) {  // loses the last piece
      Request cut = request;
      cut.length -= cut.data[cut.segments - 1].iov_len;
      --cut.segments;
      cut.owner = &request;
      cut.done = [](Request& done, int error) {
        auto& parent = *static_cast<Request*>(done.owner);
        parent.done(parent, error);
      };
      return lower().submit(cut);
    }
    if (Kind == 6 && request.op == Op::write) {  // swallows errors
      Request* parent = &request;
      auto* child = new Request(request);
      child->owner = parent;
      child->done = [](Request& done, int) {
        auto& up = *static_cast<Request*>(done.owner);
        delete &done;
        up.done(up, 0);
      };
      return lower().submit(*child);
    }
    lower().submit(request);
  }
};

template <int Kind>
std::unique_ptr<Disk> make_broken(std::unique_ptr<Disk> lower) {
  return std::make_unique<Broken<Kind>>(std::move(lower));
}

// Whether `act` ends its process with SIGABRT.
template <class Act>
bool aborts(Act&& act) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGABRT, SIG_DFL);
    fclose(stderr);
    act();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

struct Twice final : Forward {
  using Forward::Forward;
  void submit(Request& request) override {
    request.done(request, 0);
    request.done(request, 0);
  }
};
struct Never final : Forward {
  using Forward::Forward;
  void submit(Request&) override {}
};
struct Minus final : Forward {
  using Forward::Forward;
  void submit(Request& request) override { request.done(request, -EIO); }
};

}  // namespace

TEST_CASE("every stack over every back end keeps the contract of a disk", "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (const std::string& backend : backend_names())
    for (const std::string& stack : stack_names()) {
      DYNAMIC_SECTION(backend << " under " << stack) {
        const Wrongs wrong = run_all(backend, stack, seed);
        show(backend, stack, wrong);
        CHECK(wrong == Wrongs{});
      }
    }
}

TEST_CASE("the suite notices disks that are wrong on purpose", "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  const WrapBottom broken[] = {make_broken<0>, make_broken<1>, make_broken<2>, make_broken<3>,
                               make_broken<4>, make_broken<5>, make_broken<6>};
  int kind = 0;
  for (const WrapBottom wrap : broken) {
    INFO("broken kind " << kind++);
    CHECK_FALSE(run_all("memory", "bare", seed, wrap).empty());
  }
}

TEST_CASE("the audit stops a disk that completes twice, never, or with no errno", "[conform]") {
  const auto misuse = [](auto make) {
    return aborts([make] {
      auto memory = make_memory_disk(conform_geometry());
      auto audited = make_audited(make(std::move(*memory)));
      Io io(Op::read, 0, 512);
      audited->submit(io.request);
    });
  };
  CHECK(misuse([](auto lower) { return std::make_unique<Twice>(std::move(lower)); }));
  CHECK(misuse([](auto lower) { return std::make_unique<Never>(std::move(lower)); }));
  CHECK(misuse([](auto lower) { return std::make_unique<Minus>(std::move(lower)); }));
  CHECK_FALSE(misuse([](auto lower) { return std::make_unique<Forward>(std::move(lower)); }));
}

TEST_CASE("a read-only disk refuses every change with EROFS and reads on", "[conform]") {
  Geometry geometry = conform_geometry();
  geometry.read_only = true;
  for (const std::string& backend : backend_names())
    for (const std::string& stack : stack_names()) {
      INFO(backend << " under " << stack);
      if (keeps_changes(stack)) continue;  // such a disk is not read-only, whatever is below
      Bench bench(backend, stack, geometry);
      for (const Op op : {Op::write, Op::zero, Op::discard}) {
        Io io(op, 0, 512);
        CHECK(bench.run(io) == EROFS);
        Io past(op, geometry.size, 512);
        CHECK(bench.run(past) == EROFS);
      }
      Io flush(Op::flush, 0, 0);
      CHECK(bench.run(flush) == 0);
      CHECK(bench.read(0, 512) == std::string(512, '\0'));
    }
}

TEST_CASE("a disk of 4 KiB sectors refuses what is aligned to 512 bytes only", "[conform]") {
  Geometry geometry = conform_geometry();
  geometry.size = 1 << 20;
  geometry.sector_size = geometry.physical_sector_size = 4096;
  for (const std::string& backend : backend_names()) {
    INFO(backend);
    Bench bench(backend, "fault", geometry);
    Io half(Op::read, 512, 512);
    CHECK(bench.run(half) == EINVAL);
    Io whole(Op::read, 4096, 4096);
    CHECK(bench.run(whole) == 0);
  }
}
