// SPDX-License-Identifier: MIT
// Counts what passes, and how long it took below this point. Put twice, it shows what the layers in
// between cost. Requests and bytes move together, at completion; errors are events of their own.
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/child.hpp"
#include "blk/histogram.hpp"
#include "blk/layer/layers.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_stats_params[] = {
    {"name", "NAME", "what the figures are called, where several such layers are used"},
};

class Stats final : public Forward {
 public:
  Stats(std::unique_ptr<Disk> lower, const Env& env, std::string name)
      : Forward(std::move(lower)), clock_(env.clock), name_(std::move(name)) {
    reset();
  }

  void submit(Request& request) override {
    if ((request.flags & k_internal) != 0) return lower().submit(request);
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->stats = this;
    flight->since_ns = clock_.now_ns();
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.stats->completed(done, error);
    });
    lower().submit(flight->child);
  }

  Result<json> control(const json& request) override {
    if (get_string(request, "op") != "stats.reset") return lower().control(request);
    reset();
    static_cast<void>(lower().control(request));  // there may be another one below
    return json{{"since_ns", since_ns_}};
  }

  void inspect(json& out) const override {
    json figures = {{"in_flight", flights_.in_use()},
                    {"for_ms", (clock_.now_ns() - since_ns_) / k_ns_per_ms}};
    for (int i = 0; i < k_op_count; ++i) {
      const Row& row = rows_[static_cast<size_t>(i)];
      if (row.completed + row.errors != 0)
        figures[op_name(static_cast<Op>(i))] = shown(row, static_cast<Op>(i));
    }
    out[name_] = std::move(figures);
    lower().inspect(out);
  }

 private:
  struct Row {
    uint64_t completed = 0;
    uint64_t bytes = 0;
    uint64_t errors = 0;
    Histogram latency;  // of those that completed
  };
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Stats* stats = nullptr;
    uint64_t since_ns = 0;
  };

  static json shown(const Row& row, Op op) {
    const auto us = [](uint64_t ns) { return static_cast<double>(ns) / 1e3; };
    json object = {{"completed", row.completed}, {"errors", row.errors}};
    if (op != Op::flush) object["bytes"] = row.bytes;
    object["mean_us"] = us(row.latency.mean_ns());
    object["p50_us"] = us(row.latency.quantile_ns(0.5));
    object["p90_us"] = us(row.latency.quantile_ns(0.9));
    object["p99_us"] = us(row.latency.quantile_ns(0.99));
    object["max_us"] = us(row.latency.max_ns());
    return object;
  }

  void reset() {
    rows_.assign(k_op_count, Row{});
    since_ns_ = clock_.now_ns();
  }

  void completed(Flight& flight, int error) {
    Row& row = rows_[static_cast<size_t>(flight.child.op)];
    if (error != 0) {
      ++row.errors;
    } else {
      ++row.completed;
      row.bytes += flight.child.length;
      row.latency.add(clock_.now_ns() - flight.since_ns);
    }
    Request* parent = flight.parent;
    flights_.give(&flight);
    parent->done(*parent, error);
  }

  Clock& clock_;
  std::string name_;
  Pool<Flight> flights_;
  std::vector<Row> rows_;  // by operation
  uint64_t since_ns_ = 0;
};

}  // namespace

std::span<const ParamSpec> stats_params() {
  return k_stats_params;
}

Result<std::unique_ptr<Disk>> make_stats(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env) {
  const auto given = spec.params.find("name");
  const std::string name = given == spec.params.end() ? "stats" : given->second;
  TRY(check_name("layer 'stats': name", name));
  json taken = {{"faults", 0}, {"out_of_range", 0}};
  for (const LayerRow& row : layers())
    if (name != "stats") taken[row.name] = 0;
  lower->inspect(taken);
  if (taken.contains(name))
    return fail(Code::usage, fmt::format("layer 'stats': the name '{}' is taken", name));
  return std::make_unique<Stats>(std::move(lower), env, name);
}

}  // namespace pv::blk
