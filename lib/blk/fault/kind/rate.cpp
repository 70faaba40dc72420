// SPDX-License-Identifier: MIT
// Kind `rate`: so many operations or bytes a second, one after another, with a burst.
#include <cmath>

#include "base/text.hpp"
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class RateAction final : public Action {
 public:
  RateAction(uint64_t iops, uint64_t bytes, uint64_t burst_ns)
      : iops_(iops), bytes_(bytes), burst_ns_(burst_ns) {}
  Stage stage() const override { return Stage::delay; }

  Wait wait(const Case& at) const override {
    const uint64_t now = at.bench.now_ns();
    const uint64_t earliest = now > burst_ns_ ? now - burst_ns_ : 0;
    free_ns_ = std::max(free_ns_, earliest);
    const Wait wait{free_ns_ > now ? free_ns_ - now : 0, false};
    free_ns_ += cost_ns(at.request);
    return wait;
  }
  json describe() const override {
    json object = {{"kind", "rate"}};
    if (iops_ != 0) object["iops"] = iops_;
    if (bytes_ != 0) object["bytes_per_s"] = bytes_;
    if (burst_ns_ != 0) object["burst_ms"] = ns_to_ms(burst_ns_);
    return object;
  }
  json remembered() const override { return {{"free_ns", free_ns_}}; }
  bool recall(const json& remembered) const override {
    const json* free = pv::find(remembered, "free_ns");
    if (free == nullptr || !free->is_number_unsigned()) return false;
    free_ns_ = free->get<uint64_t>();
    return free_ns_ < k_max_free_ns;
  }

 private:
  static constexpr uint64_t k_max_free_ns = uint64_t{1} << 62;
  // How long the disk is busy with it.
  uint64_t cost_ns(const Request& request) const {
    const auto second = static_cast<double>(k_ns_per_s);
    double ns = 0;
    if (iops_ != 0) ns = second / static_cast<double>(iops_);
    if (bytes_ != 0 && request.op != Op::map)
      ns = std::max(ns, second * static_cast<double>(request.length) / static_cast<double>(bytes_));
    return static_cast<uint64_t>(std::llround(ns));
  }

  uint64_t iops_, bytes_, burst_ns_;
  mutable uint64_t free_ns_ = 0;  // when the disk is done with what it has
};

}  // namespace

Result<std::unique_ptr<Action>> make_rate(const json& object, const RuleGround&) {
  constexpr uint64_t k_max_iops = 1'000'000'000;
  Keys keys = keys_of(object);
  const uint64_t iops = keys.whole("iops", 0, 1, k_max_iops);
  const uint64_t bytes = keys.whole("bytes_per_s", 0, 1);
  const uint64_t burst = keys.ms("burst_ms", 0);
  if (keys.good() && iops == 0 && bytes == 0) keys.refuse("do needs iops or bytes_per_s");
  TRY(keys.end());
  return std::make_unique<RateAction>(iops, bytes, burst);
}

}  // namespace pv::blk
