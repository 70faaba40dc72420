// SPDX-License-Identifier: MIT
// Kind `torn_write`: of a write that is acknowledged, only some sectors reach the medium.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

enum class Keep : uint8_t { first, last, random };
constexpr const char* k_keep[] = {"first", "last", "random"};

class TornWrite final : public Action {
 public:
  TornWrite(Keep keep, uint64_t units, uint64_t unit_bytes)
      : keep_(keep), units_(units), unit_(unit_bytes) {}

  uint32_t ops() const override { return op_bit(Op::write) | op_bit(Op::zero); }
  bool concerns(const Case& at) const override {
    const uint64_t units = count(at.request);
    return units > 1 && units > units_;
  }
  json describe() const override {
    json object = {
        {"kind", "torn_write"}, {"keep", k_keep[static_cast<int>(keep_)]}, {"unit_bytes", unit_}};
    if (units_ != 0) object["units"] = units_;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    const Request& request = at.request;
    const uint64_t units = count(request);
    const uint64_t kept = units_ != 0 ? units_ : 1 + at.chance.below(1, units - 1);
    out.answer(0);
    uint64_t reached = 0;
    for (uint64_t from = 0; from < units;) {
      const bool stays = survives(at.chance, from, units, kept);
      uint64_t to = from + 1;
      while (to < units && survives(at.chance, to, units, kept) == stays) ++to;
      const uint64_t begin = from * unit_, end = std::min(to * unit_, request.length);
      if (stays) {
        out.steps.push_back(part(request, begin, end - begin));
        reached += end - begin;
      } else {
        at.bench.truth().remember(at.rule, request, begin, end - begin);
      }
      from = to;
    }
    out.note = fmt::format(R"("written_bytes":{})", reached);
  }

 private:
  uint64_t count(const Request& request) const { return (request.length + unit_ - 1) / unit_; }

  // A random tear keeps each unit by a coin of its own, but never all of them.
  bool survives(const Chance& chance, uint64_t unit, uint64_t units, uint64_t kept) const {
    if (keep_ == Keep::first) return unit < kept;
    if (keep_ == Keep::last) return unit >= units - kept;
    if (unit == chance.below(2, units)) return false;
    return (chance.bits(16 + unit) & 1) != 0;
  }

  Keep keep_;
  uint64_t units_, unit_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_torn_write(const json& object, const RuleGround& ground) {
  const uint64_t sector = ground.geometry.sector_size;
  Keys keys = keys_of(object);
  const auto keep = static_cast<Keep>(keys.choice("keep", {"first", "last", "random"}, 0));
  const uint64_t units = keys.whole("units", 0, 1);
  const uint64_t unit = keys.whole("unit_bytes", sector, sector, 32 << 20);
  if (keys.good() && unit % sector != 0)
    keys.refuse(fmt::format("do.unit_bytes is not a multiple of the sector size {}", sector));
  if (keys.good() && units != 0 && keep == Keep::random)
    keys.refuse("do.units says how many are kept: not with keep random");
  TRY(keys.end());
  return std::make_unique<TornWrite>(keep, units, unit);
}

}  // namespace pv::blk
