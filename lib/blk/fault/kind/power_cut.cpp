// SPDX-License-Identifier: MIT
// Kind `power_cut`: at the request that it fires at, the disk loses its power: what its volatile
// cache holds is gone but for the survivors, and every request fails until the rule is cleared.
// (One instant for all disks of a VM is `pv-fault power-cut`.)
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_survivors[] = {"none", "all", "random"};

class PowerCut final : public Action {
 public:
  PowerCut(size_t survivors, int error) : survivors_(survivors), error_(error) {}
  bool latches() const override { return true; }
  json describe() const override {
    return {{"kind", "power_cut"},
            {"survivors", k_survivors[survivors_]},
            {"errno", errno_name(error_)}};
  }
  json remembered() const override { return cut_; }
  bool recall(const json& remembered) const override {
    cut_ = remembered.is_boolean() && remembered.get<bool>();
    return remembered.is_boolean();
  }

  void decide(const Case& at, Outcome& out) const override {
    out.answer(error_);
    if (std::exchange(cut_, true)) return;
    const auto dropped = at.bench.lose_power({{"op", "cache.drop"},
                                              {"survivors", k_survivors[survivors_]},
                                              {"seed", std::to_string(at.chance.bits())}});
    if (dropped) out.note = fmt::format(R"("power_cut":{})", dropped->dump());
  }

 private:
  size_t survivors_;
  int error_;
  mutable bool cut_ = false;
};

}  // namespace

Result<std::unique_ptr<Action>> make_power_cut(const json& object, const RuleGround& ground) {
  Keys keys = keys_of(object);
  const size_t survivors = keys.choice("survivors", {"none", "all", "random"}, 0);
  const std::string name = keys.text("errno", "ENODEV");
  TRY(keys.end());
  TRY_ASSIGN(const int error, parse_errno(name));
  if (!ground.volatile_cache)
    return fail(Code::unsupported,
                "the disk has no volatile cache that a power cut could empty: serve it with "
                "--layer cache");
  return std::make_unique<PowerCut>(survivors, error);
}

}  // namespace pv::blk
