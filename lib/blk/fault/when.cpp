// SPDX-License-Identifier: MIT
#include "blk/fault/when.hpp"

#include <cmath>
#include <utility>

#include "base/json.hpp"
#include "blk/fault/keys.hpp"

namespace pv::blk {
namespace {

void read_window(Keys& keys, When& when) {
  when.from_ns = keys.ms("from_ms", 0);
  when.until_ns = keys.ms("until_ms", UINT64_MAX);
  if (when.from_ns >= when.until_ns)
    keys.refuse("when.from_ms is not before until_ms: the rule could never fire");
  const json* cycle = keys.list("cycle_ms");
  if (cycle == nullptr) return;
  if (cycle->size() != 2 || !(*cycle)[0].is_number() || !(*cycle)[1].is_number() ||
      !((*cycle)[0].get<double>() > 0) || (*cycle)[1].get<double>() < 0)
    return keys.refuse("when.cycle_ms is not [up, down] in milliseconds, up above 0");
  const auto ns = [](const json& ms) {
    return static_cast<uint64_t>(std::llround(ms.get<double>() * static_cast<double>(k_ns_per_ms)));
  };
  when.up_ns = ns((*cycle)[0]);
  when.down_ns = ns((*cycle)[1]);
}

}  // namespace

Result<When> parse_when(const json& object) {
  When when;
  Keys keys(object, "when");
  when.after = keys.whole("after", 0);
  when.every = keys.whole("every", 1);
  if (when.every == 0) keys.refuse("when.every is 0: the rule could never fire");
  if (keys.has("times")) {
    when.times = keys.whole("times", 0);
    if (*when.times == 0) keys.refuse("when.times is 0: the rule could never fire");
  }
  if (const json* p = keys.raw("probability")) {
    when.probability = p->is_number() ? p->get<double>() : 0;
    if (!(when.probability > 0) || when.probability > 1)
      keys.refuse("when.probability must be above 0 and at most 1");
  }
  when.seed = keys.seed("seed");
  read_window(keys, when);
  when.min_in_flight = keys.whole("min_in_flight", 0);
  when.state = keys.name("state");
  when.since = keys.name("since");
  when.until = keys.name("until");
  when.on = keys.name("on");
  if (!when.since.empty() && when.since == when.until)
    keys.refuse("when.since and until are the same mark: the rule could never fire");
  TRY(keys.end());
  when.conditional_ = when.from_ns != 0 || when.until_ns != UINT64_MAX || when.up_ns != 0 ||
                      when.min_in_flight > 1 || !when.state.empty() || !when.since.empty() ||
                      !when.until.empty() || !when.on.empty();
  return when;
}

bool When::holds(const Scene& scene, uint64_t age_ns, uint64_t fired) const {
  if (age_ns < from_ns || age_ns >= until_ns) return false;
  if (up_ns != 0 && (age_ns - from_ns) % (up_ns + down_ns) >= up_ns) return false;
  if (scene.in_flight < min_in_flight) return false;
  if (!state.empty() && scene.state != state) return false;
  if (!since.empty() && scene.marked(since) == 0) return false;
  if (!until.empty() && scene.marked(until) != 0) return false;
  return on.empty() || scene.marked(on) > fired;
}

json When::to_json() const {
  json object = {{"after", after},
                 {"every", every},
                 {"times", nullptr},
                 {"probability", probability},
                 {"seed", std::to_string(seed)}};
  if (times) object["times"] = *times;
  if (from_ns != 0) object["from_ms"] = ns_to_ms(from_ns);
  if (until_ns != UINT64_MAX) object["until_ms"] = ns_to_ms(until_ns);
  if (up_ns != 0) object["cycle_ms"] = {ns_to_ms(up_ns), ns_to_ms(down_ns)};
  if (min_in_flight != 0) object["min_in_flight"] = min_in_flight;
  for (const auto& [key, name] : {std::pair{"state", &state}, std::pair{"since", &since},
                                  std::pair{"until", &until}, std::pair{"on", &on}})
    if (!name->empty()) object[key] = *name;
  return object;
}

}  // namespace pv::blk
