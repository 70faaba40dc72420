// SPDX-License-Identifier: MIT
// What becomes of a new connection: a front end asks once for each, when it has accepted it.
//   fault.greet connection     {} | {"at","bytes"}    at: greeting, options or export

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/layer.hpp"
#include "blk/fault/wire_kinds.hpp"

namespace pv::blk {

json FaultLayer::greet(const json& request) {
  WireFault wire;
  Request hello;
  hello.front = Front::nbd;
  hello.connection = static_cast<uint32_t>(get_u64(request, "connection"));
  hello.wire = &wire;
  Flight flight;
  flight.parent = &hello;
  for (Rule* rule : rules_.all()) {
    if (!rule->greets(hello, scene_, now_ns()) || !counts(*rule)) continue;
    rule->action().decide(case_of(*rule, flight), flight.outcome);
    JournalEntry entry = entry_for(hello);
    entry.rule = rule->id();
    entry.kind = rule->kind();
    entry.match = rule->match_number();
    entry.connects = true;
    entry.wire = flight.outcome.wire.kind;
    entry.note = flight.outcome.note;
    record(entry);
    const auto at = static_cast<HangUp>(flight.outcome.wire.how);
    return {{"at", name_of(at)}, {"bytes", flight.outcome.wire.bytes}};
  }
  return lower().control(request).value_or(json::object());
}

}  // namespace pv::blk
