// SPDX-License-Identifier: MIT
// Kind `delay`: the request waits, then the rules are looked at again.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class DelayAction final : public Action {
 public:
  explicit DelayAction(uint64_t ns) : ns_(ns) {}
  Stage stage() const override { return Stage::delay; }
  Wait wait(const Case&) const override { return {ns_, false}; }
  json describe() const override { return {{"kind", "delay"}, {"delay_ms", ns_to_ms(ns_)}}; }

 private:
  uint64_t ns_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_delay(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const uint64_t ns = keys.ms("delay_ms", 0);
  if (keys.good() && ns == 0) keys.refuse("do.delay_ms must be a number above 0 and at most a day");
  TRY(keys.end());
  return std::make_unique<DelayAction>(ns);
}

}  // namespace pv::blk
