// SPDX-License-Identifier: MIT
// If this fails, a stack of layers does something that the back end alone would not, or a back end
// breaks the contract of blk/disk.hpp. PV_CONFORM_MATRIX=1 prints the matrix of what was run.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <sys/wait.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "blk/backend/memory.hpp"
#include "blk/checked.hpp"
#include "blk/child.hpp"
#include "support.hpp"

namespace {

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

Geometry conform_geometry(uint32_t sector = 512) {
  Geometry geometry;
  geometry.size = (1 << 20) + 3 * sector;
  geometry.sector_size = geometry.physical_sector_size = geometry.discard_granularity = sector;
  return geometry;
}

// What each check has found, in the order of checks(); nullopt: it does not apply.
using Row = std::vector<std::optional<Wrongs>>;

Row run_row(const Combination& at, const Geometry& geometry, uint64_t seed,
            WrapBottom wrap = nullptr) {
  Row row;
  for (const Check& check : checks()) {
    if ((check.on == Check::host_only && at.front != "host") ||
        (check.on == Check::not_vhost && at.front == "vhost")) {
      row.emplace_back();
      continue;
    }
    test::Bench bench(at.backend, at.stack, geometry, wrap, at.front);
    if (bench.disk().geometry().read_only) {  // has a test of its own, below
      row.emplace_back();
      continue;
    }
    Rng rng(mix(seed, 1));
    check.run(bench, rng, row.emplace_back().emplace());
  }
  return row;
}

Wrongs all_of(const Row& row) {
  Wrongs wrong;
  for (size_t i = 0; i < row.size(); ++i)
    for (const std::string& text : row[i].value_or(Wrongs{}))
      if (wrong.size() < 20) wrong.push_back(fmt::format("{}: {}", checks()[i].name, text));
  return wrong;
}

void show(const Combination& at, uint32_t sector, const Row& row) {
  if (getenv("PV_CONFORM_MATRIX") == nullptr) return;
  std::string cases;
  for (size_t i = 0; i < row.size(); ++i)
    cases += fmt::format(" {}:{}", i + 1, !row[i] ? "n/a" : row[i]->empty() ? "ok" : "FAIL");
  fmt::print("{:<16} {:<7} {:<5} {:>4}{}\n", at.stack, at.backend, at.front, sector, cases);
}

void show_legend() {
  if (getenv("PV_CONFORM_MATRIX") == nullptr) return;
  for (size_t i = 0; i < checks().size(); ++i) fmt::print("{:>2} {}\n", i + 1, checks()[i].name);
  fmt::print("{:<16} {:<7} {:<5} {:>4} cases\n", "stack", "backend", "front", "sect");
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

// Says that a flush or a FUA is done and hands on neither.
template <bool Fua>
struct Forgetful final : Forward {
  using Forward::Forward;
  struct Child {
    Request request;
    Request* parent;
  };
  void submit(Request& request) override {
    if (!Fua && request.op == Op::flush) return request.done(request, 0);
    if (!Fua || (request.flags & k_fua) == 0) return lower().submit(request);
    auto* child = new Child{request, &request};
    make_child(child->request, request, child, [](Request& done, int error) {
      auto* ended = static_cast<Child*>(done.owner);
      Request* parent = ended->parent;
      delete ended;
      parent->done(*parent, error);
    });
    child->request.flags &= ~static_cast<uint32_t>(k_fua);
    lower().submit(child->request);
  }
};

// Flushes below as soon as it is told to, and only then writes what it has been given meanwhile.
struct FlushFirst final : Forward {
  using Forward::Forward;
  std::vector<std::string> kept;
  std::vector<Request> writes;
  void submit(Request& request) override {
    if (request.op != Op::write) {
      lower().submit(request);
      if (request.op == Op::flush) write_kept();
      return;
    }
    std::string& bytes = kept.emplace_back();
    for (int i = 0; i < request.segments; ++i)
      bytes.append(static_cast<char*>(request.data[i].iov_base), request.data[i].iov_len);
    writes.push_back(request);
    request.done(request, 0);
  }
  void write_kept() {
    for (size_t i = 0; i < writes.size(); ++i) {
      const iovec piece{kept[i].data(), kept[i].size()};
      Request late = writes[i];
      late.data = &piece;
      late.segments = 1;
      late.done = [](Request&, int) {};
      lower().submit(late);  // over memory, which completes inline
    }
    writes.clear();
    kept.clear();
  }
};

// Zeroes and discards one sector more than it was told to, except at the very end.
struct Greedy final : Forward {
  using Forward::Forward;
  void submit(Request& request) override {
    const uint64_t sector = geometry().sector_size;
    const bool last = request.offset + request.length + sector > geometry().size;
    if ((request.op != Op::zero && request.op != Op::discard) || last)
      return lower().submit(request);
    request.length += sector;
    lower().submit(request);
  }
};

template <class D>
std::unique_ptr<Disk> make_wrong(std::unique_ptr<Disk> lower) {
  return std::make_unique<D>(std::move(lower));
}
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

void check_cell(const Combination& at, uint32_t sector) {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  const Geometry geometry = conform_geometry(sector);
  if (geometry.size < stack_row(at.stack).min_size) return;
  INFO(at.stack << " on " << at.backend << " behind " << at.front << ", sectors of " << sector);
  const Row row = run_row(at, geometry, seed);
  show(at, sector, row);
  CHECK(all_of(row) == Wrongs{});
}

void check_front(std::string_view front) {
  show_legend();
  size_t cells = 0;
  for (const Combination& at : combinations()) {
    if (at.front != front) continue;
    check_cell(at, 512);
    ++cells;
  }
  CHECK(cells > 40);
}

}  // namespace

TEST_CASE("every stack keeps the contract of a disk, on every back end", "[conform]") {
  check_front("host");
}

TEST_CASE("every stack keeps the contract with sectors of 4096 bytes", "[conform]") {
  for (const std::string& stack : stack_names()) check_cell({"memory", stack, "host"}, 4096);
}

TEST_CASE("every stack keeps the contract behind NBD", "[conform]") {
  check_front("nbd");
  check_cell({"file", "bare", "nbd"}, 4096);
}

TEST_CASE("every stack keeps the contract behind vhost-user", "[conform]") {
  check_front("vhost");
  check_cell({"file", "bare", "vhost"}, 4096);
}

TEST_CASE("disks of a few sectors keep the contract too", "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  constexpr std::string_view k_any_size[] = {"awkward ranges", "edge sectors", "alignment",
                                             "zero length", "read back"};
  for (const uint64_t sectors : {1, 2, 129})
    for (const std::string& stack : stack_names())
      for (const Check& check : checks()) {
        Geometry geometry = conform_geometry();
        geometry.size = sectors * 512;
        const bool apt = std::count(std::begin(k_any_size), std::end(k_any_size), check.name) != 0;
        if (!apt || geometry.size < stack_row(stack).min_size) continue;
        INFO(sectors << " sectors under " << stack << ": " << check.name);
        if ((stack_row(stack).changes & k_new_read_only) != 0) continue;
        test::Bench bench("memory", stack, geometry);
        Rng rng(seed);
        Wrongs wrong;
        check.run(bench, rng, wrong);
        CHECK(wrong == Wrongs{});
      }
}

TEST_CASE("the suite notices disks that are wrong on purpose", "[conform]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  const std::pair<WrapBottom, const char*> broken[] = {
      {make_broken<0>, "discard and zero"},
      {make_broken<1>, "scatter and gather"},
      {make_broken<2>, ""},  // some check or other
      {make_broken<3>, "the map is truthful"},
      {make_broken<4>, "flush and FUA"},
      {make_broken<5>, "scatter and gather"},
      {make_broken<6>, "errors pass unchanged"},
      {make_wrong<Forgetful<true>>, "FUA is durable"},
      {make_wrong<Forgetful<false>>, "a flush is a barrier"},
      {make_wrong<FlushFirst>, "a flush is a barrier"},
      {make_wrong<Greedy>, "edge sectors"},
  };
  int kind = 0;
  for (const auto& [wrap, name] : broken)
    for (const std::string_view front : {"host", "nbd", "vhost"}) {
      if (wrap == WrapBottom(make_broken<5>) && front == "nbd")
        continue;  // our server's requests come in one piece
      if (wrap == WrapBottom(make_broken<3>) && front == "vhost") continue;  // there are no maps
      INFO("broken kind " << kind++ << " behind " << front << " is not seen by: " << name);
      const Row row =
          run_row({"memory", "bare", std::string(front)}, conform_geometry(), seed, wrap);
      bool seen = false;
      for (size_t i = 0; i < row.size(); ++i)
        seen = seen || (row[i] && !row[i]->empty() &&
                        (*name == '\0' || checks()[i].name == std::string_view(name)));
      CHECK(seen);
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
  for (const Combination& at : combinations()) {
    INFO(at.stack << " on " << at.backend << " behind " << at.front);
    test::Bench bench(at.backend, at.stack, geometry, nullptr, at.front);
    if (!bench.disk().geometry().read_only) continue;
    for (const Op op : {Op::write, Op::zero, Op::discard}) {
      Io io(op, 0, 512);
      if (!bench.carries(io.request)) continue;
      CHECK(bench.run(io) == bench.seen(op, EROFS));
      Io past(op, bench.disk().geometry().size, 512);
      CHECK(bench.run(past) == bench.seen(op, EROFS));
    }
    Io flush(Op::flush, 0, 0);
    CHECK(bench.run(flush) == 0);
    const std::string first = bench.read(0, 512);
    CHECK(first.size() == 512);
    if (!bench.row().scrambled) CHECK(first == std::string(512, '\0'));
  }
}
