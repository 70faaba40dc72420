// SPDX-License-Identifier: MIT
// Latency for every request, or for some operations only. The smallest layer there is: copy it to
// make a new one.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_params[] = {
    {"ms", "MS", "milliseconds before each request"},
    {"for", "DURATION", "the same with a unit, e.g. for=250us"},
    {"ops", "OP+OP", "only these operations, e.g. ops=flush+write (default: all)"},
};

class Delay final : public Forward {
 public:
  Delay(std::unique_ptr<Disk> lower, const Env& env, uint64_t ns, uint32_t ops)
      : Forward(std::move(lower)), timers_(env.timers), ns_(ns), ops_(ops) {}

  void submit(Request& request) override {
    if (ns_ == 0 || (ops_ & 1U << static_cast<int>(request.op)) == 0 ||
        (request.flags & k_internal) != 0)
      return lower().submit(request);
    timers_.after(ns_, [this, &request] { lower().submit(request); });
  }

  void inspect(json& out) const override {
    out["delay"] = {{"delay_ms", static_cast<double>(ns_) / 1e6}};
    lower().inspect(out);
  }

 private:
  Timers& timers_;
  uint64_t ns_;
  uint32_t ops_;
};

}  // namespace

std::span<const ParamSpec> delay_params() {
  return k_params;
}

Result<std::unique_ptr<Disk>> make_delay(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env) {
  uint64_t ns = 0;
  uint32_t ops = 0;
  for (const auto& [key, value] : spec.params) {
    if (key == "ms") {
      TRY_ASSIGN(ns, parse_duration(value + "ms"));
    } else if (key == "for") {
      TRY_ASSIGN(ns, parse_duration(value));
    } else {
      for (const std::string& name : split(value, '+')) {
        Op op;
        if (!op_from_name(name, op))
          return fail(Code::usage, fmt::format("layer 'delay': unknown operation '{}'", name));
        ops |= 1U << static_cast<int>(op);
      }
    }
  }
  if (spec.params.count("ms") + spec.params.count("for") == 2)
    return fail(Code::usage, "layer 'delay': ms and for exclude each other");
  if (ns == 0) return fail(Code::usage, "layer 'delay' needs a time, e.g. delay:ms=5");
  return std::make_unique<Delay>(std::move(lower), env, ns, ops == 0 ? ~0U : ops);
}

}  // namespace pv::blk
