// SPDX-License-Identifier: MIT
// Kind `delay`: the request waits, then the rules are looked at again.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "blk/fault/kinds.hpp"

namespace pv::blk {
namespace {

constexpr double k_max_delay_ms = 24.0 * 3600 * 1000;

class DelayAction final : public Action {
 public:
  explicit DelayAction(double ms) : ms_(ms) {}
  Stage stage() const override { return Stage::delay; }
  void apply(Passage& passage) const override {
    passage.add_delay(static_cast<uint64_t>(ms_ * static_cast<double>(k_ns_per_ms)));
  }
  json describe() const override { return {{"kind", "delay"}, {"delay_ms", ms_}}; }

 private:
  double ms_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_delay_action(const json& object) {
  TRY(check_keys(object, {"kind", "delay_ms"}, "do"));
  const json* value = find(object, "delay_ms");
  const double ms = value && value->is_number() ? value->get<double>() : -1;
  if (!(ms > 0) || ms > k_max_delay_ms)
    return fail(Code::bad_rule, "do.delay_ms must be a number above 0 and at most a day");
  return std::make_unique<DelayAction>(ms);
}

}  // namespace pv::blk
