// SPDX-License-Identifier: MIT
// Kind `reorder`: writes wait for each other and are then carried out, and answered, in an order of
// chance. A flush lets them go first: what it promises is not what waits here.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Reorder final : public Action {
 public:
  Reorder(uint64_t depth, uint64_t ns) : depth_(depth), ns_(ns) {}
  Stage stage() const override { return Stage::delay; }
  uint32_t ops() const override { return k_changes | op_bit(Op::read); }
  uint32_t default_ops() const override { return op_bit(Op::write); }
  json describe() const override {
    return {{"kind", "reorder"}, {"depth", depth_}, {"max_ms", ns_to_ms(ns_)}};
  }

  Wait wait(const Case& at) const override {
    const auto gone = [&](uint64_t ticket) { return !at.bench.waits(ticket); };
    group_.erase(std::remove_if(group_.begin(), group_.end(), gone), group_.end());
    group_.push_back(at.ticket);
    chance_ = at.chance;
    if (group_.size() >= depth_) let_go(at.rule, at.bench);
    return {ns_, true};
  }

  bool watches() const override { return true; }
  void saw(const Request& request, uint64_t rule, Bench& bench) const override {
    if (request.op == Op::flush && !group_.empty()) let_go(rule, bench);
  }

 private:
  void let_go(uint64_t rule, Bench& bench) const {
    for (size_t i = group_.size(); i > 1; --i)
      std::swap(group_[i - 1], group_[chance_.below(i, i)]);
    bench.wake(rule, group_);
    group_.clear();
  }

  uint64_t depth_, ns_;
  mutable std::vector<uint64_t> group_;
  mutable Chance chance_{0};
};

}  // namespace

Result<std::unique_ptr<Action>> make_reorder(const json& object, const RuleGround&) {
  constexpr uint64_t k_default_ns = 20 * k_ns_per_ms, k_max_depth = 1024;
  Keys keys = keys_of(object);
  const uint64_t depth = keys.whole("depth", 4, 2, k_max_depth);
  const uint64_t ns = keys.ms("max_ms", k_default_ns);
  TRY(keys.end());
  return std::make_unique<Reorder>(depth, ns);
}

}  // namespace pv::blk
