// SPDX-License-Identifier: MIT
// If this fails, a layer looks twice at memory that a guest may change meanwhile, or that has one
// page several times: it keeps wrong blocks, or calls a healthy disk damaged.
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "blk/record/reader.hpp"
#include "support.hpp"

namespace pv::test {
namespace {

using blk::Op;
constexpr uint64_t k_hostile_page = 4096;
constexpr size_t k_slots = 8;
constexpr uint64_t k_slot_bytes = 64 << 10;  // each slot has a stretch of the disk of its own

// As from a guest: the pieces of one request, which may be the same memory.
void submit_shared(Bench& bench, Io& io, const std::vector<iovec>& pieces) {
  io.pieces = pieces;
  io.request.data = io.pieces.data();
  io.request.segments = static_cast<int>(io.pieces.size());
  io.request.shared = true;
  bench.disk().submit(io.request);
}

int run_shared(Bench& bench, Op op, uint64_t offset, const std::vector<iovec>& pieces) {
  uint64_t length = 0;
  for (const iovec& piece : pieces) length += piece.iov_len;
  std::vector<std::unique_ptr<Io>> one;
  one.push_back(std::make_unique<Io>(op, offset, length));
  submit_shared(bench, *one[0], pieces);
  bench.wait(one);
  return one[0]->error;
}

// Memory that another process changes all the time.
class Scribbled {
 public:
  explicit Scribbled(size_t bytes)
      : bytes_(bytes),
        at_(static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(at_ != MAP_FAILED);
    child_ = fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) scribble();
  }
  ~Scribbled() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    munmap(at_, bytes_);
  }
  Scribbled(const Scribbled&) = delete;
  Scribbled& operator=(const Scribbled&) = delete;
  char* at(size_t offset) const { return at_ + offset; }

 private:
  [[noreturn]] void scribble() const {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t word = 1;; word = word * 6364136223846793005U + 1442695040888963407U)
      std::memcpy(at_ + word % (bytes_ / 8) * 8, &word, sizeof word);
  }

  size_t bytes_;
  char* at_;
  pid_t child_ = 0;
};

uint64_t findings(const json& shown) {
  uint64_t count = 0;
  for (const char* layer : {"mirror", "history"})
    if (const json* state = find(shown, layer)) count += get_u64(*state, "mismatches");
  return count;
}

// What a log says the disk holds; it must be whole.
void compare_log(const std::string& path, std::string was, const std::string& disk) {
  auto log = blk::LogReader::open(path);
  REQUIRE(log);
  for (auto entry = log->next(); entry && *entry; entry = log->next())
    if ((*entry)->kind == blk::LogKind::write)
      was.replace((*entry)->offset, log->data().size(), log->data());
  const auto end = log->end();
  REQUIRE(end);
  CHECK(end->unused_bytes == 0);
  CHECK((was == disk));
}

blk::Geometry hostile_geometry() {
  blk::Geometry geometry;
  geometry.size = k_slots * k_slot_bytes;
  return geometry;
}

// Sector for sector one of the pages that were read into it.
bool is_one_of(const char* page, const char* first, const char* second) {
  for (size_t at = 0; at < k_hostile_page; at += 512)
    if (std::memcmp(page + at, first + at, 512) != 0 &&
        std::memcmp(page + at, second + at, 512) != 0)
      return false;
  return true;
}

json inspected(Bench& bench) {
  json shown;
  bench.disk().inspect(shown);
  return shown;
}

void check_aliases(Bench& bench, Rng& rng) {
  constexpr uint64_t k_length = 3 * k_hostile_page;
  std::string model = random_bytes(rng, 16 * k_hostile_page);
  REQUIRE(bench.write(0, model) == 0);
  std::vector<char> a(k_hostile_page), b(k_hostile_page);
  const std::vector<iovec> pieces = {
      {a.data(), k_hostile_page}, {b.data(), k_hostile_page}, {a.data(), k_hostile_page}};
  for (int round = 0; round < 20; ++round) {
    const uint64_t at = rng.below(14) * k_hostile_page;
    CAPTURE(round, at);
    model.replace(at, k_length, random_bytes(rng, k_length));
    REQUIRE(bench.write(at, model.substr(at, k_length)) == 0);
    REQUIRE(run_shared(bench, Op::read, at, pieces) == 0);
    const char* is = model.data() + at;
    CHECK(std::memcmp(b.data(), is + k_hostile_page, k_hostile_page) == 0);
    CHECK(is_one_of(a.data(), is, is + 2 * k_hostile_page));
    CHECK((bench.read(0, model.size()) == model));
    model.replace(at, k_hostile_page, b.data(), k_hostile_page);
    model.replace(at + k_hostile_page, k_hostile_page, a.data(), k_hostile_page);
    model.replace(at + 2 * k_hostile_page, k_hostile_page, b.data(), k_hostile_page);
    REQUIRE(run_shared(bench, Op::write, at, {pieces[1], pieces[0], pieces[1]}) == 0);
    CHECK((bench.read(0, model.size()) == model));
  }
  CHECK(findings(inspected(bench)) == 0);
}

// Several requests at a time, each slot one; what they write is for the scribbler to say.
void run_scribbled(Bench& bench, Rng& rng, const Scribbled& memory) {
  for (int round = 0; round < 60; ++round) {
    std::vector<std::unique_ptr<Io>> all;
    for (size_t slot = 0; slot < k_slots; ++slot) {
      const uint64_t length = (1 + rng.below(16)) * 512 * (rng.below(4) == 0 ? 8 : 1);
      const uint64_t skip = rng.below((k_slot_bytes - length) / 512 + 1) * 512;
      all.push_back(std::make_unique<Io>(rng.below(2) == 0 ? Op::read : Op::write,
                                         slot * k_slot_bytes + skip, length));
      const uint64_t half = length / 1024 * 512;  // twice the same memory, in part
      submit_shared(bench, *all.back(),
                    {{memory.at(slot * k_slot_bytes), half},
                     {memory.at(slot * k_slot_bytes), length - half}});
    }
    bench.wait(all);
    for (const auto& io : all) REQUIRE(io->error == 0);
  }
}

void check_scribbled(Bench& bench, Rng& rng) {
  const std::string before = random_bytes(rng, hostile_geometry().size);
  REQUIRE(bench.write(0, before) == 0);
  {
    const Scribbled memory(k_slots * k_slot_bytes);
    run_scribbled(bench, rng, memory);
  }
  const std::string disk = bench.read(0, before.size());
  CHECK((bench.read(0, before.size()) == disk));
  Io flush(Op::flush, 0, 0);
  REQUIRE(bench.run(flush) == 0);
  const json shown = inspected(bench);
  CHECK(findings(shown) == 0);
  if (const json* record = find(shown, "record"))
    compare_log(get_string(*record, "file"), std::string(before.size(), '\0'), disk);
  if (bench.row().below != Below::same || bench.row().scrambled) return;
  Io below(Op::read, 0, before.size());
  bench.failing().submit(below.request);
  while (below.completions == 0) REQUIRE(bench.loop().run_once(100));
  CHECK((below.bytes() == disk));
}

template <class Check>
void on_each_stack(Check&& check) {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (const std::string& stack : stack_names())
    for (const char* backend : {"memory", "file"}) {
      CAPTURE(stack, backend);
      Bench bench(backend, stack, hostile_geometry());
      if (bench.disk().geometry().read_only) continue;
      Rng rng(mix(seed, 5));
      check(bench, rng);
    }
}

}  // namespace

TEST_CASE("every stack: one page several times in a request is read and written as it is said",
          "[conform][hostile]") {
  on_each_stack(check_aliases);
}

TEST_CASE("every stack: memory that changes meanwhile spoils nothing but what it is written to",
          "[conform][hostile]") {
  on_each_stack(check_scribbled);
}

}  // namespace pv::test
