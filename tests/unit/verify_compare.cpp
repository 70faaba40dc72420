// SPDX-License-Identifier: MIT
// Random pairs of images, compared with a model in memory and with cmp and qemu-img. If this fails,
// a difference goes unseen, is reported where there is none, or in the wrong place.
#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "blk/backend/memory.hpp"
#include "verify/compare.hpp"

using namespace pv;
using namespace pv::verify;
using namespace pv::test;

namespace {

constexpr int k_pairs = 1000;

Deadline soon() {
  return Deadline::in_ms(20'000);
}

Fd open_fd(const std::string& path, int flags = O_RDONLY) {
  return Fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
}

// One image: its content, and a file that has it, with holes where `written` says nothing.
struct Content {
  std::string bytes;
  std::vector<std::pair<size_t, size_t>> written;

  void put(size_t offset, const std::string& data) {
    bytes.replace(offset, data.size(), data);
    written.emplace_back(offset, data.size());
  }
  void save(const std::string& path) const {
    const Fd fd = open_fd(path, O_RDWR | O_CREAT | O_TRUNC);
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(bytes.size())) == 0);
    for (const auto& [offset, length] : written)
      REQUIRE(pwrite(fd.get(), bytes.data() + offset, length, static_cast<off_t>(offset)) ==
              static_cast<ssize_t>(length));
  }
};

struct Pair {
  Content a, b;
};

// A stretch of an image of `size` bytes, most of them short.
std::pair<size_t, size_t> stretch(Rng& rng, size_t size) {
  const size_t offset = rng.below(size);
  const size_t limit = std::min<size_t>(size - offset, rng.below(4) == 0 ? size : 5000);
  return {offset, 1 + rng.below(limit)};
}

Pair random_pair(Rng& rng) {
  size_t size = 1 + rng.below(rng.below(16) == 0 ? 5 << 20 : 300'000);
  if (rng.below(2) == 0) size = (size + 511) / 512 * 512;
  Pair pair;
  pair.a.bytes.assign(size, '\0');
  for (uint64_t n = rng.below(6); n > 0; --n) {
    const auto [offset, length] = stretch(rng, size);
    pair.a.put(offset, rng.below(4) == 0 ? std::string(length, '\0') : random_bytes(rng, length));
  }
  pair.b = pair.a;
  for (uint64_t n = rng.below(3) == 0 ? 0 : rng.below(12); n > 0; --n) {
    auto [offset, length] = stretch(rng, size);
    if (rng.below(2) == 0) length = 1;
    Content& side = rng.below(2) == 0 ? pair.a : pair.b;
    side.put(offset, rng.below(3) == 0 ? std::string(length, '\0') : random_bytes(rng, length));
  }
  if (rng.below(4) == 0) {  // one is longer
    Content& side = rng.below(2) == 0 ? pair.a : pair.b;
    const size_t more = 512 * (1 + rng.below(40));
    side.bytes.append(more, '\0');
    if (rng.below(2) == 0) side.put(side.bytes.size() - more, random_bytes(rng, more));
  }
  return pair;
}

// The same answer, from bytes in memory, one at a time.
std::vector<Difference> model(const Pair& pair, uint64_t merge) {
  std::vector<Difference> found;
  const size_t size = std::max(pair.a.bytes.size(), pair.b.bytes.size());
  for (size_t at = 0; at < size; ++at) {
    const char a = at < pair.a.bytes.size() ? pair.a.bytes[at] : '\0';
    const char b = at < pair.b.bytes.size() ? pair.b.bytes[at] : '\0';
    if (a == b) continue;
    const uint64_t gap = found.empty() ? 0 : at - found.back().offset - found.back().length;
    if (found.empty() || (gap != 0 && gap >= merge)) found.push_back({at, 0, 0, true, true});
    Difference& last = found.back();
    last.length = at + 1 - last.offset;
    ++last.differing;
    last.a_zero = last.a_zero && a == 0;
    last.b_zero = last.b_zero && b == 0;
  }
  return found;
}

bool same(const std::vector<Difference>& x, const std::vector<Difference>& y) {
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& a, const auto& b) {
    return a.offset == b.offset && a.length == b.length && a.differing == b.differing &&
           a.a_zero == b.a_zero && a.b_zero == b.b_zero;
  });
}

std::vector<Difference> ours(Image& a, Image& b, uint64_t merge, unsigned jobs) {
  CompareOptions options;
  options.merge = merge;
  options.jobs = jobs;
  std::vector<Difference> found;
  const auto totals = compare(a, b, options, [&](const Difference& one) -> Result<> {
    found.push_back(one);
    return {};
  });
  REQUIRE(totals);
  CHECK(totals->ranges == found.size());
  return found;
}

std::unique_ptr<Image> raw(const std::string& path) {
  return make_raw_image(open_fd(path), path, true).value();
}

int status_of(const std::vector<std::string>& argv, std::string* out = nullptr) {
  const auto done = run_program(argv, soon());
  REQUIRE(done);
  if (out != nullptr) *out = done->out;
  return done->status.code;
}

// What cmp and qemu-img say of the two files.
void ask_others(const std::string& a, const std::string& b, const Pair& pair,
                const std::vector<Difference>& found) {
  uint64_t differing = 0;
  for (const Difference& one : found) differing += one.differing;
  if (pair.a.bytes.size() == pair.b.bytes.size()) {
    std::string listed;
    CHECK(status_of({"cmp", "-s", a, b}) == (found.empty() ? 0 : 1));
    CHECK(status_of({"sh", "-c", "cmp -l " + a + " " + b + " | wc -l"}, &listed) == 0);
    CHECK(std::stoull(listed) == differing);
  }
  if (pair.a.bytes.size() % 512 == 0 && pair.b.bytes.size() % 512 == 0)
    CHECK(status_of({"qemu-img", "compare", "-f", "raw", "-F", "raw", a, b}) ==
          (found.empty() ? 0 : 1));
}

std::string some_options(Rng& rng) {
  const char* sizes[] = {"512", "4096", "65536", "2097152"};
  const std::string how = std::string("cluster_size=") + sizes[rng.below(4)];
  return rng.below(3) == 0 ? how + ",compat=0.10" : how;
}

std::string as_qcow2(const std::string& path, const std::string& how) {
  const std::string to = path + ".qcow2";
  REQUIRE(status_of({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", how, path, to}) == 0);
  return to;
}

std::unique_ptr<Image> qcow2(const std::string& path) {
  return make_qcow2_image(open_fd(path), path).value();
}

}  // namespace

// Programs are slow to start: they are asked about each PV_COMPARE_ORACLE-th pair only (default
// 25).
TEST_CASE("compare finds every range of a thousand random pairs, and cmp and qemu-img agree",
          "[verify]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  const char* asked = getenv("PV_COMPARE_ORACLE");
  const int every = asked != nullptr ? std::max(1, atoi(asked)) : 25;
  const TempDir folder;
  const std::string a = folder.path("a"), b = folder.path("b");
  constexpr uint64_t k_merges[] = {0, 1, 2, 8, 512, 4096, 1 << 20};
  for (int i = 0; i < k_pairs; ++i) {
    INFO("pair " << i);
    const Pair pair = random_pair(rng);
    pair.a.save(a);
    pair.b.save(b);
    const uint64_t merge = k_merges[rng.below(std::size(k_merges))];
    const auto jobs = static_cast<unsigned>(1 + rng.below(4));
    const std::vector<Difference> expected = model(pair, merge);
    const auto image_a = raw(a), image_b = raw(b);
    REQUIRE(same(ours(*image_a, *image_b, merge, jobs), expected));
    if (i % every != 0) continue;
    ask_others(a, b, pair, expected);
    if (pair.a.bytes.size() % 512 != 0 || pair.b.bytes.size() % 512 != 0) continue;
    const auto other_a = qcow2(as_qcow2(a, some_options(rng)));
    const auto other_b = qcow2(as_qcow2(b, some_options(rng)));
    REQUIRE(same(ours(*other_a, *image_b, merge, jobs), expected));
    REQUIRE(same(ours(*other_a, *other_b, merge, jobs), expected));
  }
}

TEST_CASE("a qcow2 image whose tables are damaged is an error or other data, never a crash",
          "[verify]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  const TempDir folder;
  Content content;
  content.bytes.assign(1 << 20, '\0');
  content.put(100'000, random_bytes(rng, 200'000));
  content.save(folder.path("a"));
  const std::string path = as_qcow2(folder.path("a"), "cluster_size=4096");
  const std::string whole = read_file(path, 8 << 20).value();
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    std::string damaged = whole;
    for (uint64_t n = 1 + rng.below(4); n > 0; --n) {
      const size_t reach = rng.below(2) == 0 ? 112 : damaged.size();
      damaged[rng.below(reach)] = static_cast<char>(rng.next());
    }
    if (rng.below(4) == 0) damaged.resize(rng.below(damaged.size()));
    REQUIRE(write_file_atomic(path, damaged));
    const auto image = make_qcow2_image(open_fd(path), path);
    if (!image) {
      ++refused;
      CHECK((image.error().code == Code::invalid || image.error().code == Code::unsupported));
      continue;
    }
    Buffer buffer(1 << 16);
    for (uint64_t at = 0; at + (1 << 16) <= std::min<uint64_t>((*image)->size(), 4 << 20);
         at += 1 << 16) {
      std::vector<blk::Extent> extents;
      REQUIRE((*image)->map(at, 1 << 16, extents));
      REQUIRE(extents.at(0).length <= 1 << 16);
      REQUIRE((*image)->read(at, buffer.data(), 1 << 16));
    }
  }
  CHECK(refused > 50);
}

TEST_CASE("a file that changes while it is compared is an error", "[verify]") {
  const TempDir folder;
  Content content;
  content.bytes.assign(100'000, 'x');
  content.written.emplace_back(0, 100'000);
  content.save(folder.path("a"));
  content.save(folder.path("b"));
  const auto compared = [&](const std::function<void(int fd)>& meanwhile) {
    const auto a = raw(folder.path("a")), b = raw(folder.path("b"));
    sleep_ns(20 * k_ns_per_ms);  // file systems tell time by the tick
    meanwhile(open_fd(folder.path("b"), O_RDWR).get());
    const auto found = [](const Difference&) -> Result<> { return {}; };
    const auto totals = compare(*a, *b, {}, found);
    return totals ? std::string("compared") : totals.error().message;
  };
  CHECK_THAT(compared([](int) {}), Catch::Matchers::Equals("compared"));
  CHECK_THAT(compared([](int fd) { REQUIRE(pwrite(fd, "x", 1, 0) == 1); }),
             Catch::Matchers::EndsWith("was written to while it was read"));
  CHECK_THAT(compared([](int fd) { REQUIRE(ftruncate(fd, 200'000) == 0); }),
             Catch::Matchers::EndsWith("became longer while it was read"));
  CHECK_THAT(compared([](int fd) { REQUIRE(ftruncate(fd, 5'000) == 0); }),
             Catch::Matchers::EndsWith("became shorter while it was read"));
}

TEST_CASE("an image on a thread of its own: any offset, and a disk that never answers",
          "[verify]") {
  const auto memory = [](Loop&) -> Result<std::unique_ptr<blk::Disk>> {
    blk::Geometry geometry;
    geometry.size = 1 << 20;
    return blk::make_memory_disk(geometry);
  };
  const auto image = make_disk_image(memory, "memory", soon()).value();
  const std::string text = "some bytes that are not a sector";
  std::string sector(512, '.');
  sector.replace(7, text.size(), text);
  REQUIRE(image->write(4096, sector.data(), sector.size()));
  CHECK(image->write(4097, sector.data(), 512).error().code == Code::invalid);
  std::string back(text.size(), '\0');
  REQUIRE(image->read(4096 + 7, back.data(), back.size()));
  CHECK(back == text);

  class Silent final : public blk::Disk {
   public:
    Silent() { geometry_.size = 1 << 20; }
    const blk::Geometry& geometry() const override { return geometry_; }
    void submit(blk::Request&) override {}

   private:
    blk::Geometry geometry_;
  };
  const auto silent =
      make_disk_image(
          [](Loop&) -> Result<std::unique_ptr<blk::Disk>> { return std::make_unique<Silent>(); },
          "silent", Deadline::in_ms(50))
          .value();
  CHECK(silent->read(0, back.data(), back.size()).error().code == Code::timeout);
  CHECK(silent->flush().error().code == Code::timeout);
}
