// SPDX-License-Identifier: MIT
// Latency for every request, or for some operations only; can change while the disk is served.
#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"
#include "blk/ring.hpp"
#include "blk/tune.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_delay_params[] = {
    {"ms", "MS", "milliseconds before each request"},
    {"for", "DURATION", "the same with a unit, e.g. for=250us"},
    {"ops", "OP+OP", "only these operations, e.g. ops=flush+write (default: all)"},
};
constexpr uint32_t k_all_ops = (1U << k_op_count) - 1;

struct DelaySettings {
  uint64_t ns = 0;
  uint32_t ops = k_all_ops;  // one bit each
};

// `settings` with what `params` changes.
Result<DelaySettings> settings_with(DelaySettings settings,
                                    const std::map<std::string, std::string>& params) {
  if (params.count("ms") + params.count("for") == 2)
    return fail(Code::usage, "layer 'delay': ms and for exclude each other");
  for (const auto& [key, value] : params) {
    if (key != "ops") {
      auto ns = parse_duration(key == "ms" ? value + "ms" : value);
      if (!ns) return fail(Code::usage, fmt::format("layer 'delay': {}={} is no time", key, value));
      settings.ns = *ns;
      continue;
    }
    settings.ops = 0;
    for (const std::string& name : split(value, '+')) {
      Op op;
      if (!op_from_name(name, op))
        return fail(Code::usage, fmt::format("layer 'delay': unknown operation '{}'", name));
      settings.ops |= op_bit(op);
    }
  }
  return settings;
}

class Delay final : public Forward {
 public:
  Delay(std::unique_ptr<Disk> below, const Env& env, const DelaySettings& settings)
      : Forward(std::move(below)), env_(env), settings_(settings) {}

  void submit(Request& request) override {
    if (settings_.ns == 0 || (settings_.ops & op_bit(request.op)) == 0 ||
        (request.flags & k_internal) != 0)
      return lower().submit(request);
    const uint64_t now = env_.clock.now_ns();
    waiting_.push({&request, now, now + settings_.ns});
    arm();
  }

  Result<json> control(const json& request) override {
    if (!tunes(request, "delay")) return lower().control(request);
    TRY_ASSIGN(const auto params, tune_params(request, {"ms", "for", "ops"}));
    TRY_ASSIGN(settings_, settings_with(settings_, params));
    // Who waits already keeps its time, unless it would be through sooner by the new one. So the
    // queue stays in the order of the times.
    for (size_t i = 0; i < waiting_.size(); ++i)
      waiting_[i].due = std::min(waiting_[i].due, waiting_[i].arrived + settings_.ns);
    if (timer_ != 0) env_.timers.cancel(std::exchange(timer_, 0));
    arm();
    return json{{"layer", shown()}};
  }

  void inspect(json& out) const override {
    out["delay"] = shown();
    lower().inspect(out);
  }

 private:
  struct Waiting {
    Request* request = nullptr;
    uint64_t arrived = 0, due = 0;
  };

  json shown() const { return {{"delay_ms", static_cast<double>(settings_.ns) / 1e6}}; }

  void arm() {
    if (timer_ != 0 || waiting_.empty()) return;
    const uint64_t now = env_.clock.now_ns(), due = waiting_.front().due;
    timer_ = env_.timers.after(due > now ? due - now : 0, [this] {
      timer_ = 0;
      release();
    });
  }

  void release() {
    const uint64_t now = env_.clock.now_ns();
    while (!waiting_.empty() && waiting_.front().due <= now)
      lower().submit(*waiting_.pop().request);
    arm();
  }

  Env env_;
  DelaySettings settings_;
  Ring<Waiting> waiting_;  // as many as the front ends let in
  TimerId timer_ = 0;
};

}  // namespace

std::span<const ParamSpec> delay_params() {
  return k_delay_params;
}

Result<std::unique_ptr<Disk>> make_delay(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env) {
  TRY_ASSIGN(const DelaySettings settings, settings_with({}, spec.params));
  if (spec.params.count("ms") + spec.params.count("for") == 0)
    return fail(Code::usage, "layer 'delay' needs a time, e.g. delay:ms=5");
  return std::make_unique<Delay>(std::move(lower), env, settings);
}

}  // namespace pv::blk
