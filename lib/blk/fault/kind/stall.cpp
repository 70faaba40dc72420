// SPDX-License-Identifier: MIT
// Kind `stall`: the request is held until `pv-fault release`, or for a time.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class StallAction final : public Action {
 public:
  explicit StallAction(uint64_t ns) : ns_(ns) {}
  Stage stage() const override { return Stage::delay; }
  Wait wait(const Case&) const override { return {ns_, true}; }
  json describe() const override {
    json object = {{"kind", "stall"}};
    if (ns_ != 0) object["max_ms"] = ns_to_ms(ns_);
    return object;
  }

 private:
  uint64_t ns_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_stall(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const uint64_t ns = keys.ms("max_ms", 0);
  TRY(keys.end());
  return std::make_unique<StallAction>(ns);
}

}  // namespace pv::blk
