// SPDX-License-Identifier: MIT
// If this fails, a power cut can take from an overlay what was flushed, or show what was never
// written. The overlay lives on a simulated file: what was not synced survives sector by sector as
// chance will have it. PV_POWER_SEEDS sets how many lives are lived.
#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <map>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "blk/backend/memory.hpp"
#include "blk/checked.hpp"
#include "blk/cow/disk.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_cow_power_sector = 512, k_sectors = 203, k_base_sectors = 150;

// Requests that chance completes, in any order.
struct Queue {
  std::vector<std::function<void()>> held;
  Rng rng{0};
  bool pump() {
    if (held.empty()) return false;
    const size_t i = rng.below(held.size());
    auto act = std::move(held[i]);
    held.erase(held.begin() + static_cast<ptrdiff_t>(i));
    act();
    return true;
  }
};

struct PowerFile {
  std::string now, durable;
  struct Entry {
    uint64_t serial, offset;
    std::string bytes;
  };
  std::vector<Entry> log;  // what is in `now` and not in `durable`
  uint64_t serial = 0;
  bool off = false;  // nothing reaches it any more

  void put(uint64_t offset, std::string bytes) {
    if (off) return;
    now.replace(offset, bytes.size(), bytes);
    log.push_back({++serial, offset, std::move(bytes)});
  }
  void sync(uint64_t up_to) {
    if (off) return;
    for (const Entry& entry : log)
      if (entry.serial <= up_to) durable.replace(entry.offset, entry.bytes.size(), entry.bytes);
    std::erase_if(log, [&](const Entry& entry) { return entry.serial <= up_to; });
  }
  // Of each sector any version since the last sync, or none.
  void cut(Rng& rng) {
    const uint64_t odds = 1 + rng.below(4);
    for (const Entry& entry : log)
      for (uint64_t at = 0; at < entry.bytes.size(); at += k_cow_power_sector)
        if (rng.below(5) < odds)
          durable.replace(entry.offset + at, k_cow_power_sector, entry.bytes, at,
                          k_cow_power_sector);
    log.clear();
    now = durable;
  }
};

class PowerDisk final : public Disk {
 public:
  PowerDisk(PowerFile& file, Queue& queue) : file_(file), queue_(queue) {}
  const Geometry& geometry() const override { return geometry_; }
  void submit(Request& request) override {
    const uint64_t before = file_.serial;
    queue_.held.push_back([this, &request, before] { act(request, before); });
  }

 private:
  void act(Request& r, uint64_t before) {
    std::string bytes;
    uint64_t at = r.offset;
    switch (r.op) {
      case Op::read:
        for (int i = 0; i < r.segments; at += r.data[i++].iov_len)
          file_.now.copy(static_cast<char*>(r.data[i].iov_base), r.data[i].iov_len, at);
        break;
      case Op::write:
        for (int i = 0; i < r.segments; ++i)
          bytes.append(static_cast<char*>(r.data[i].iov_base), r.data[i].iov_len);
        file_.put(r.offset, bytes);
        if ((r.flags & k_fua) != 0) file_.sync(file_.serial);
        break;
      case Op::flush:
        file_.sync(before);  // what came meanwhile is not covered
        break;
      default:
        file_.put(r.offset, std::string(r.length, '\0'));
    }
    r.done(r, 0);
  }
  PowerFile& file_;
  Queue& queue_;
  Geometry geometry_;
};

class PowerStore final : public CowStore {
 public:
  PowerStore(PowerFile& file, Queue& queue) : file_(file), disk_(file, queue) {}
  Disk& disk() override { return disk_; }
  Result<uint64_t> length() override { return file_.now.size(); }
  Result<bool> blank() override { return file_.now.empty(); }
  Result<> read(uint64_t offset, char* bytes, size_t count) override {
    file_.now.copy(bytes, count, offset);
    return {};
  }
  Result<> write(uint64_t offset, const char* bytes, size_t count) override {
    file_.put(offset, std::string(bytes, count));
    return {};
  }
  Result<> sync() override {
    file_.sync(file_.serial);
    return {};
  }
  Result<> set_length(uint64_t length) override {
    file_.now.resize(length);
    file_.durable.resize(length);
    return {};
  }
  std::string name() const override { return "simulated"; }

 private:
  PowerFile& file_;
  PowerDisk disk_;
};

class HeldBase final : public Forward {
 public:
  HeldBase(std::unique_ptr<Disk> lower, Queue& queue) : Forward(std::move(lower)), queue_(queue) {}
  void submit(Request& request) override {
    if (request.op != Op::read && request.op != Op::map) writes_ = true;
    queue_.held.push_back([this, &request] { lower().submit(request); });
  }
  static bool writes_;  // a base is never written

 private:
  Queue& queue_;
};
bool HeldBase::writes_ = false;

std::string content(uint64_t sector, uint64_t version) {
  std::string bytes(k_cow_power_sector, '\0');
  const uint64_t words[2] = {sector + 1, version + 1};
  for (size_t at = 0; at < k_cow_power_sector; at += sizeof words)
    bytes.replace(at, sizeof words, reinterpret_cast<const char*>(words), sizeof words);
  return bytes;
}

// Every sector's versions since the last that is known to be safe.
struct CowPowerModel {
  struct Sector {
    std::map<uint64_t, std::string> versions;
    uint64_t completed = 0;
    bool busy = false;  // one change at a time, so that versions have an order
  };
  std::vector<Sector> sectors{k_sectors};

  void safe(uint64_t s, uint64_t version) {
    auto& versions = sectors[s].versions;
    versions.erase(versions.begin(), versions.lower_bound(version));
  }
};

struct Change : Io {
  CowPowerModel& model;
  uint64_t first, version;
  int& in_flight;
  Change(CowPowerModel& m, Op op, uint64_t sector, uint64_t count, uint64_t v, uint32_t flags,
         int& n)
      : Io(op, sector * k_cow_power_sector, count * k_cow_power_sector, flags),
        model(m),
        first(sector),
        version(v),
        in_flight(n) {
    ++in_flight;
    for (uint64_t i = 0; i < count; ++i) {
      CowPowerModel::Sector& s = model.sectors[first + i];
      s.busy = true;
      s.versions[version] = op == Op::write ? content(first + i, version) : std::string(512, '\0');
      if (op == Op::write)
        s.versions[version].copy(data.data() + i * k_cow_power_sector, k_cow_power_sector);
    }
    request.done = [](Request& r, int with) {
      Change& c = *static_cast<Change*>(static_cast<Io*>(r.owner));
      c.error = with;
      ++c.completions;
      --c.in_flight;
      for (uint64_t i = 0; i < r.length / k_cow_power_sector; ++i) {
        CowPowerModel::Sector& s = c.model.sectors[c.first + i];
        s.busy = false;
        s.completed = c.version;
        if ((r.flags & k_fua) != 0) c.model.safe(c.first + i, c.version);
      }
    };
  }
};

struct Flush : Io {
  CowPowerModel& model;
  std::vector<uint64_t> then;
  explicit Flush(CowPowerModel& m) : Io(Op::flush, 0, 0), model(m) {
    for (const auto& s : m.sectors) then.push_back(s.completed);
    request.done = [](Request& r, int with) {
      Flush& f = *static_cast<Flush*>(static_cast<Io*>(r.owner));
      f.error = with;
      ++f.completions;
      for (uint64_t s = 0; with == 0 && s < k_sectors; ++s) f.model.safe(s, f.then[s]);
    };
  }
};

struct CowPowerWorld {
  PowerFile file;
  Queue queue;
  CowPowerModel model;
  Rng rng;
  std::unique_ptr<CowDisk> disk;
  uint64_t version = 1;
  uint32_t block;
  std::string wrong;

  explicit CowPowerWorld(uint64_t seed) : rng(seed), block(4096U << rng.below(3)) {
    queue.rng = Rng(mix(seed, 2));
    for (uint64_t s = 0; s < k_sectors; ++s)
      model.sectors[s].versions[0] = s < k_base_sectors ? content(s, 0) : std::string(512, '\0');
  }

  void open() {
    Geometry geometry;
    geometry.size = k_base_sectors * k_cow_power_sector;
    geometry.read_only = true;
    auto base = *make_memory_disk(geometry);
    Io fill(Op::write, 0, geometry.size);
    for (uint64_t s = 0; s < k_base_sectors; ++s)
      content(s, 0).copy(fill.data.data() + s * k_cow_power_sector, k_cow_power_sector);
    base->submit(fill.request);
    auto held = std::make_unique<HeldBase>(std::move(base), queue);
    auto store = std::make_unique<PowerStore>(file, queue);
    CowHeader header;
    header.block = block;
    header.size = k_sectors * k_cow_power_sector;
    header.id = 77;
    header.base.size = header.base_limit = geometry.size;
    auto map = file.now.empty() ? CowMap::create(std::move(store), header)
                                : CowMap::open(std::move(store));
    if (!map) {
      wrong = map.error().message;
      return;
    }
    disk = std::make_unique<CowDisk>(std::move(held), std::move(*map));
  }

  // Some requests, side by side; the power goes at any moment.
  void live(bool to_the_end) {
    std::vector<std::shared_ptr<Io>> all;  // of several kinds
    int in_flight = 0;
    for (uint64_t steps = 20 + rng.below(120); steps > 0; --steps) {
      if (rng.below(3) == 0) {
        queue.pump();
        continue;
      }
      if (rng.below(12) == 0) {
        all.push_back(std::make_shared<Flush>(model));
      } else {
        constexpr Op k_ops[] = {Op::write, Op::write, Op::write, Op::zero, Op::discard};
        const uint64_t first = rng.below(k_sectors);
        const uint64_t count = 1 + rng.below(std::min<uint64_t>(k_sectors - first, 24));
        bool busy = in_flight > 8;
        for (uint64_t s = first; s < first + count; ++s) busy = busy || model.sectors[s].busy;
        if (busy) continue;
        const uint32_t flags = rng.below(6) == 0 ? uint32_t{k_fua} : 0U;
        all.push_back(std::make_shared<Change>(model, k_ops[rng.below(5)], first, count, version++,
                                               flags, in_flight));
      }
      disk->submit(all.back()->request);
    }
    while (to_the_end && queue.pump()) {
    }
    queue.held.clear();
    for (const auto& io : all)
      if (io->completions > 1 || (io->completions == 1 && io->error != 0) ||
          (to_the_end && io->completions != 1))
        wrong = "a request fails, or is not completed once";
    for (uint64_t s = 0; to_the_end && s < k_sectors; ++s)
      model.safe(s, model.sectors[s].completed);
    if (!to_the_end) file.cut(rng);
    file.off = !to_the_end;  // the program ends in either case, the disk hears of it in one only
    disk.reset();
    file.off = false;
  }

  void check() {
    Io read(Op::read, 0, k_sectors * k_cow_power_sector);
    disk->submit(read.request);
    while (queue.pump()) {
    }
    const std::string bytes = read.bytes();
    for (uint64_t s = 0; s < k_sectors; ++s) {
      auto& sector = model.sectors[s];
      const std::string got = bytes.substr(s * k_cow_power_sector, k_cow_power_sector);
      uint64_t found = UINT64_MAX;
      for (const auto& [number, wanted] : sector.versions)
        if (wanted == got) found = number;
      if (found == UINT64_MAX)
        wrong = "sector " + std::to_string(s) + " holds what it may not: block " +
                std::to_string(block) + ", safe since " +
                std::to_string(sector.versions.begin()->first);
      sector.versions = {{version, got}};
      sector.completed = version;
      sector.busy = false;
    }
    ++version;
  }
};

}  // namespace

TEST_CASE("a power cut takes nothing that was flushed and shows nothing that was not written",
          "[cow]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  const char* asked = getenv("PV_POWER_SEEDS");
  const uint64_t worlds = asked ? std::strtoull(asked, nullptr, 10) : 300;
  for (uint64_t i = 0; i < worlds; ++i) {
    CowPowerWorld world(mix(seed, i));
    HeldBase::writes_ = false;
    for (int life = 0; life < 4 && world.wrong.empty(); ++life) {
      world.open();
      if (!world.wrong.empty()) break;
      if (life != 0) world.check();
      world.live(world.rng.below(4) == 0);
    }
    INFO("world " << i);
    REQUIRE(world.wrong == "");
    REQUIRE_FALSE(HeldBase::writes_);
  }
}
