// SPDX-License-Identifier: MIT
// A disk that does so many operations and bytes a second, and no more. Token buckets: a request
// goes when its buckets are not in debt, however large it is, and leaves the debt to those behind
// it. Nothing fails, it only takes longer. Reads wait in one queue and everything else in another,
// each in order, so that a limit of one direction does not hold up the other.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"
#include "blk/ring.hpp"
#include "blk/tune.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_throttle_params[] = {
    {"iops", "N", "operations a second"},
    {"iops-read", "N", "reads a second"},
    {"iops-write", "N", "writes, zeroes and discards a second"},
    {"bps", "SIZE", "bytes a second, of reads and writes"},
    {"bps-read", "SIZE", "bytes a second of reads"},
    {"bps-write", "SIZE", "bytes a second of writes"},
    {"burst", "DURATION", "what an idle disk saves up, as time at the full rate (default 100ms)"},
};
constexpr uint64_t k_default_burst_ns = 100 * k_ns_per_ms;
constexpr uint64_t k_max_rate = 1ULL << 50;

constexpr uint32_t k_reads = op_bit(Op::read);

struct BucketKind {
  const char* key;
  bool bytes;
  uint32_t ops;
};
constexpr std::array<BucketKind, 6> k_kinds{{
    {"iops", false, k_reads | k_changes | op_bit(Op::flush)},
    {"iops-read", false, k_reads},
    {"iops-write", false, k_changes},
    {"bps", true, k_reads | op_bit(Op::write)},
    {"bps-read", true, k_reads},
    {"bps-write", true, op_bit(Op::write)},
}};

struct Rates {
  std::array<uint64_t, k_kinds.size()> rates{};  // a second; 0: no limit
  uint64_t burst_ns = k_default_burst_ns;
};

Result<Rates> rates_with(Rates rates, const std::map<std::string, std::string>& params) {
  for (const auto& [key, value] : params) {
    const auto bad = [&, &k = key, &v = value](const char* what) {
      return fail(Code::usage, fmt::format("layer 'throttle': {}={} is not {}", k, v, what));
    };
    if (key == "burst") {
      const auto ns = parse_duration(value);
      if (!ns) return bad("a duration, e.g. 100ms");
      rates.burst_ns = *ns;
      continue;
    }
    for (size_t i = 0; i < k_kinds.size(); ++i) {
      if (key != k_kinds[i].key) continue;
      const auto rate = k_kinds[i].bytes ? parse_size(value) : parse_count(key, value);
      if (!rate || *rate > k_max_rate)
        return bad(k_kinds[i].bytes ? "a size a second, e.g. 10M (0: no limit)"
                                    : "a number a second (0: no limit)");
      rates.rates[i] = *rate;
    }
  }
  return rates;
}

class Throttle final : public Forward {
 public:
  Throttle(std::unique_ptr<Disk> below, const Env& env, const Rates& rates)
      : Forward(std::move(below)), env_(env), rates_(rates) {}

  void submit(Request& request) override {
    if ((request.flags & k_internal) != 0) return lower().submit(request);
    queues_[request.op == Op::read ? 0 : 1].push({&request, ++last_number_});
    turn();
  }

  Result<json> control(const json& request) override {
    if (!tunes(request, "throttle")) return lower().control(request);
    TRY_ASSIGN(const auto params, tune_params(request, {"iops", "iops-read", "iops-write", "bps",
                                                        "bps-read", "bps-write", "burst"}));
    TRY_ASSIGN(rates_, rates_with(rates_, params));
    clear_at_ = {};  // a debt was counted at the old rate
    turn();
    return json{{"layer", shown()}};
  }

  void inspect(json& out) const override {
    out["throttle"] = shown();
    lower().inspect(out);
  }

 private:
  struct Waiting {
    Request* request = nullptr;
    uint64_t number = 0;
  };

  json shown() const {
    json out = {{"burst_ms", static_cast<double>(rates_.burst_ns) / 1e6},
                {"waiting", queues_[0].size() + queues_[1].size()}};
    for (size_t i = 0; i < k_kinds.size(); ++i)
      if (rates_.rates[i] != 0) out[k_kinds[i].key] = rates_.rates[i];
    return out;
  }

  bool applies(size_t i, const Request& request) const {
    return rates_.rates[i] != 0 && (k_kinds[i].ops & op_bit(request.op)) != 0;
  }

  // When the last of its buckets is out of debt.
  uint64_t ready_at(const Request& request) const {
    uint64_t at = 0;
    for (size_t i = 0; i < k_kinds.size(); ++i)
      if (applies(i, request) && clear_at_[i] > rates_.burst_ns)
        at = std::max(at, clear_at_[i] - rates_.burst_ns);
    return at;
  }

  void charge(const Request& request, uint64_t now) {
    for (size_t i = 0; i < k_kinds.size(); ++i) {
      if (!applies(i, request)) continue;
      const uint64_t amount = k_kinds[i].bytes ? request.length : 1;
      const double cost =
          static_cast<double>(amount) * static_cast<double>(k_ns_per_s) / rate_of(i);
      clear_at_[i] = std::max(clear_at_[i], now) + static_cast<uint64_t>(cost);
    }
  }
  double rate_of(size_t i) const { return static_cast<double>(rates_.rates[i]); }

  // Lets go what may go, the older first, and sleeps until the next one may.
  void turn() {
    if (std::exchange(turning_, true)) return;  // the loop below sees what came
    uint64_t wake = 0;
    while (true) {
      const uint64_t now = env_.clock.now_ns();
      Ring<Waiting>* next = nullptr;
      wake = UINT64_MAX;
      for (Ring<Waiting>& queue : queues_) {
        if (queue.empty()) continue;
        const uint64_t at = ready_at(*queue.front().request);
        wake = std::min(wake, at);
        if (at <= now && (next == nullptr || queue.front().number < next->front().number))
          next = &queue;
      }
      if (next == nullptr) break;
      Request& request = *next->pop().request;
      charge(request, now);
      lower().submit(request);
    }
    turning_ = false;
    arm(wake);
  }

  void arm(uint64_t wake) {
    const uint64_t now = env_.clock.now_ns();
    if (timer_ != 0 && wake == armed_for_) return;
    if (timer_ != 0) env_.timers.cancel(std::exchange(timer_, 0));
    if (wake == UINT64_MAX) return;
    armed_for_ = wake;
    timer_ = env_.timers.after(wake > now ? wake - now : 0, [this] {
      timer_ = 0;
      turn();
    });
  }

  Env env_;
  Rates rates_;
  std::array<uint64_t, k_kinds.size()> clear_at_{};  // when each bucket would be full again
  std::array<Ring<Waiting>, 2> queues_;              // reads, others; bounded by the front ends
  uint64_t last_number_ = 0;
  TimerId timer_ = 0;
  uint64_t armed_for_ = 0;
  bool turning_ = false;
};

}  // namespace

std::span<const ParamSpec> throttle_params() {
  return k_throttle_params;
}

Result<std::unique_ptr<Disk>> make_throttle(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                            const Env& env) {
  TRY_ASSIGN(const Rates rates, rates_with({}, spec.params));
  if (spec.params.size() == spec.params.count("burst"))
    return fail(Code::usage, "layer 'throttle' needs a limit, e.g. throttle:iops=100");
  return std::make_unique<Throttle>(std::move(lower), env, rates);
}

}  // namespace pv::blk
