// SPDX-License-Identifier: MIT
// Kind `jitter`: delays drawn from a distribution, an empirical histogram, or a recorded trace.
#include <cmath>
#include <numbers>

#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_values = 1 << 20;

enum class Shape : uint8_t { uniform, normal, exponential, histogram, trace };
constexpr const char* k_shapes[] = {"uniform", "normal", "exponential", "histogram", "trace"};

struct Bucket {
  double upto_ms;
  double weight;
};

struct JitterSettings {
  Shape shape = Shape::uniform;
  double min_ms = 0, max_ms = 0, mean_ms = 0, stddev_ms = 0;
  std::vector<Bucket> buckets;  // rising; the first begins at 0
  std::vector<double> values;
};

class JitterAction final : public Action {
 public:
  explicit JitterAction(JitterSettings settings) : s_(std::move(settings)) {
    for (const Bucket& bucket : s_.buckets) total_ += bucket.weight;
  }
  Stage stage() const override { return Stage::delay; }
  Wait wait(const Case& at) const override { return {ms_to_ns(draw(at)), false}; }

  json describe() const override {
    json object = {{"kind", "jitter"}, {"distribution", k_shapes[static_cast<int>(s_.shape)]}};
    if (s_.shape == Shape::uniform) object["min_ms"] = s_.min_ms;
    if (s_.shape == Shape::normal || s_.shape == Shape::exponential) object["mean_ms"] = s_.mean_ms;
    if (s_.shape == Shape::normal) object["stddev_ms"] = s_.stddev_ms;
    if (s_.shape <= Shape::exponential) object["max_ms"] = s_.max_ms;
    for (const Bucket& bucket : s_.buckets)
      object["buckets"].push_back({bucket.upto_ms, bucket.weight});
    if (!s_.values.empty()) object["values_ms"] = s_.values;
    return object;
  }

 private:
  double draw(const Case& at) const {
    const double u = at.chance.unit(1);
    switch (s_.shape) {
      case Shape::uniform:
        return s_.min_ms + u * (s_.max_ms - s_.min_ms);
      case Shape::normal: {
        // Box and Muller; 1 - u is never 0.
        const double r = std::sqrt(-2 * std::log(1 - u));
        const double z = r * std::cos(2 * std::numbers::pi * at.chance.unit(2));
        return std::clamp(s_.mean_ms + z * s_.stddev_ms, 0.0, s_.max_ms);
      }
      case Shape::exponential:
        return std::min(-s_.mean_ms * std::log(1 - u), s_.max_ms);
      case Shape::histogram:
        return from_histogram(u * total_);
      case Shape::trace:
        return s_.values[(at.match - 1) % s_.values.size()];
    }
    return 0;
  }

  double from_histogram(double left) const {
    double low = 0;
    for (const Bucket& bucket : s_.buckets) {
      if (left < bucket.weight) return low + (bucket.upto_ms - low) * left / bucket.weight;
      left -= bucket.weight;
      low = bucket.upto_ms;
    }
    return low;
  }

  JitterSettings s_;
  double total_ = 0;
};

bool positive(const json& value) {
  return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= k_max_ms;
}

void read_buckets(Keys& keys, JitterSettings& s) {
  const json* list = keys.list("buckets");
  double last = 0, total = 0;
  if (list != nullptr && list->size() <= k_max_values) {
    for (const json& pair : *list) {
      if (!pair.is_array() || pair.size() != 2 || !positive(pair[0]) || !pair[1].is_number() ||
          pair[1].get<double>() < 0 || pair[0].get<double>() <= last)
        return keys.refuse("do.buckets is not a list of [upto_ms, weight] with rising upto_ms");
      last = pair[0].get<double>();
      total += pair[1].get<double>();
      s.buckets.push_back({last, pair[1].get<double>()});
    }
  }
  if (keys.good() && !(total > 0)) keys.refuse("do.buckets: distribution histogram needs them");
}

void read_values(Keys& keys, JitterSettings& s) {
  const json* list = keys.list("values_ms");
  if (list != nullptr && list->size() <= k_max_values) {
    for (const json& value : *list) {
      if (!positive(value)) return keys.refuse("do.values_ms is not a list of milliseconds");
      s.values.push_back(value.get<double>());
    }
  }
  if (keys.good() && s.values.empty()) keys.refuse("do.values_ms: distribution trace needs them");
}

}  // namespace

Result<std::unique_ptr<Action>> make_jitter(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  JitterSettings s;
  s.shape = static_cast<Shape>(
      keys.choice("distribution", {"uniform", "normal", "exponential", "histogram", "trace"}, 0));
  if (s.shape == Shape::uniform) s.min_ms = keys.number("min_ms", 0, 0, k_max_ms);
  if (s.shape == Shape::normal || s.shape == Shape::exponential) {
    s.mean_ms = keys.number("mean_ms", 0, 0, k_max_ms);
    if (keys.good() && !(s.mean_ms > 0)) keys.refuse("do.mean_ms must be above 0");
  }
  if (s.shape == Shape::normal) s.stddev_ms = keys.number("stddev_ms", s.mean_ms / 4, 0, k_max_ms);
  const double most = s.shape == Shape::uniform ? 0 : k_max_ms;
  if (s.shape <= Shape::exponential) s.max_ms = keys.number("max_ms", most, 0, k_max_ms);
  if (keys.good() && s.shape == Shape::uniform && !(s.max_ms > s.min_ms))
    keys.refuse("do.max_ms must be above min_ms");
  if (s.shape == Shape::histogram) read_buckets(keys, s);
  if (s.shape == Shape::trace) read_values(keys, s);
  TRY(keys.end());
  return std::make_unique<JitterAction>(std::move(s));
}

}  // namespace pv::blk
