// SPDX-License-Identifier: MIT
#include "vm/lan/lan.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "lan/server.hpp"
#include "vm/lan/members.hpp"

namespace pv::lan {
namespace {

constexpr uint64_t k_grace_ns = 2 * k_ns_per_s;

std::vector<uint32_t> taken_subnets(const RunDir& run) {
  std::vector<uint32_t> taken;
  for (const Object& lan : run.list("lan", /*all_scopes=*/true))
    if (const auto state = load_state(lan)) taken.push_back(state->subnet);
  return taken;
}

json milliseconds(uint64_t ns) {
  return static_cast<double>(ns / 1000) / 1000;
}

json member_document(const LanState& state, const Member& member, const json& ports) {
  json document = {{"vm", member.vm},
                   {"scope", member.scope},
                   {"mac", member.mac},
                   {"address", state.address(member.port)},
                   {"link", member.link.up ? "up" : "down"},
                   {"latency_ms", milliseconds(member.link.latency_ns)},
                   {"jitter_ms", milliseconds(member.link.jitter_ns)},
                   {"loss", member.link.loss},
                   {"seed", std::to_string(member.link.seed)},
                   {"connected", false}};
  if (const json* live = find(ports, std::to_string(member.port))) document.update(*live);
  return document;
}

}  // namespace

Result<Object> create_lan(const RunDir& run, const std::string& name, const Deadline& deadline) {
  // Two lans that are made at once must not choose the same subnet.
  TRY_ASSIGN(const LockFile lock,
             LockFile::acquire(run.path() + "/lan.lock", deadline, "the choice of a subnet"));
  const std::vector<uint32_t> taken = taken_subnets(run);
  TRY_ASSIGN(const Object lan, run.create("lan", "", name));
  const auto start = [&]() -> Result<> {
    LanState state;
    TRY_ASSIGN(state.subnet, choose_subnet(name, taken));
    TRY_ASSIGN(state.server, start_server(lan, deadline));
    auto saved = save_state(lan, state);
    if (!saved) static_cast<void>(terminate(state.server, 0));
    return saved;
  };
  auto started = start();
  if (started) return lan;
  run.remove(lan);
  return fail(started.error());
}

Result<json> lan_document(const Object& lan, const Deadline& deadline) {
  TRY_ASSIGN(const LanState state, load_state(lan));
  const bool alive = is_alive(state.server);
  json ports = json::object();
  if (alive) {
    auto status = call_switch(lan, state, {{"op", "status"}}, deadline);
    if (!status) return fail(status.error());
    ports = (*status)["ports"];
  }
  json document = {{"name", lan.name},
                   {"scope", lan.scope},
                   {"state", alive ? "open" : "dead"},
                   {"subnet", fmt::format("{}/{}", address_text(state.subnet), k_prefix)},
                   {"pid", alive ? json(state.server.pid) : json()},
                   {"members", json::array()}};
  for (const Member& member : state.members)
    if (member.exists()) document["members"].push_back(member_document(state, member, ports));
  return document;
}

Result<> change_link(const Object& lan, const std::string& vm, const LinkChange& change,
                     const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_lan(lan, deadline));
  TRY_ASSIGN(LanState state, load_state(lan));
  TRY(require_switch(lan, state));
  Member* member = state.member(vm);
  if (!member || !member->exists()) return fail(no_such_member(lan, state, vm));
  LinkSettings& link = member->link;
  link.up = change.up.value_or(link.up);
  link.latency_ns = change.latency_ns.value_or(link.latency_ns);
  link.jitter_ns = change.jitter_ns.value_or(link.jitter_ns);
  link.loss = change.loss.value_or(link.loss);
  link.seed = change.seed.value_or(link.seed);
  TRY(save_state(lan, state));
  TRY(send_link(lan, state, *member, deadline));
  if (!change.up) return {};
  return show_carrier(lan, *member, deadline);
}

Result<> close_lan(const RunDir& run, const Object& lan, const Deadline& deadline) {
  auto lock = lock_lan(lan, deadline);
  // Somebody else closed it first, or was killed half way through: what is left is removed.
  if (!lock && lock.error().code != Code::no_such_lan) return fail(lock.error());
  if (auto state = load_state(lan)) {
    while (!state->members.empty()) {
      // A guest that keeps its card must not keep the lan.
      if (auto out = remove_member(lan, *state, state->members.back().vm, deadline, true); !out)
        return out;
    }
    TRY(terminate(state->server, k_grace_ns));
  }
  run.remove(lan);
  return {};
}

}  // namespace pv::lan
