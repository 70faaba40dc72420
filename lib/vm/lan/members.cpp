// SPDX-License-Identifier: MIT
#include "vm/lan/members.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "lan/server.hpp"
#include "vm/client.hpp"
#include "vm/lan/lan.hpp"
#include "vm/vm_object.hpp"

namespace pv::lan {
namespace {

// A guest that does not let go of its card must not use up all the time.
constexpr uint64_t k_forced_release_ns = 5 * k_ns_per_s;
// Nor may a guest that hangs hold up what is done to another one, or a switch the end of its lan.
constexpr uint64_t k_bystander_ns = 10 * k_ns_per_s;
constexpr uint64_t k_forced_switch_ns = 2 * k_ns_per_s;

Deadline at_most(uint64_t ns, const Deadline& deadline) {
  return Deadline::in_ns(std::min(ns, deadline.left_ns()));
}

std::string state_of(const Object& vm) {
  const auto state = vm.load();
  return state ? vm::actual_state(vm, *state) : "";
}

json request_of(const char* what, json rest) {
  json request = {{"op", "net"}, {"do", what}};
  request.update(rest);
  return request;
}

void drop_nic(json& vm_state, const std::string& lan) {
  json kept = json::array();
  if (const json* nics = find(vm_state, "nics"))
    for (const json& nic : *nics)
      if (get_string(nic, "lan") != lan) kept.push_back(nic);
  vm_state["nics"] = std::move(kept);
}

// Those whose VM was closed by somebody who could not say so.
void prune(const Object& lan, LanState& state, const Deadline& deadline) {
  const std::vector<Member> members = state.members;
  for (const Member& member : members)
    if (!member.exists())
      static_cast<void>(remove_member(lan, state, member.vm, deadline, /*force=*/true));
}

// Tells a member who is in the lan now, if it runs.
Result<> tell_member(const Object& lan, const LanState& state, const Member& member, bool wait,
                     const Deadline& deadline) {
  const Object vm = member.object();
  const std::string now = state_of(vm);
  if (!vm::is_running(now)) return {};
  // A paused guest hears it when it goes on.
  const json request = request_of(
      "configure",
      {{"nic", vm::nic_to_json(nic_spec(lan, state, member))}, {"wait", wait && now == "booted"}});
  const auto told = vm::call_supervisor(vm, request, deadline, "lan");
  if (told || told.error().code == Code::no_agent) return {};
  return fail(told.error());
}

// Tells those in `must`, who have to hear it, and then all others.
Result<> tell_members(const Object& lan, const LanState& state, const std::set<std::string>& must,
                      bool wait, const Deadline& deadline) {
  for (const Member& member : state.members)
    if (must.count(member.vm) != 0) TRY(tell_member(lan, state, member, wait, deadline));
  for (const Member& member : state.members)
    if (must.count(member.vm) == 0)
      static_cast<void>(tell_member(lan, state, member, wait, at_most(k_bystander_ns, deadline)));
  return {};
}

Result<> check_new(const Object& lan, LanState& state, const Object& vm) {
  if (const Member* member = state.member(vm.name))
    return fail(Code::duplicate_name,
                fmt::format("lan '{}' has a VM '{}' already{}", lan.name, vm.name,
                            member->dir == vm.dir ? "" : ", of scope '" + member->scope + "'"));
  TRY_ASSIGN(const json vm_state, vm.load());
  TRY(vm::require_state(vm, vm_state, "attach", {"created", "shutdown", "booted"}));
  const json* nics = find(vm_state, "nics");
  if (!nics) return {};
  for (const json& nic : *nics)
    if (get_string(nic, "lan") == lan.name && get_string(nic, "dir") != lan.dir &&
        lan_of(nic).exists())
      return fail(Code::duplicate_name,
                  fmt::format("VM '{}' is in another lan '{}' already", vm.name, lan.name));
  return {};
}

Result<> add_member(const Object& lan, LanState& state, const Object& vm,
                    const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, vm::lock_vm(vm, deadline));
  TRY(check_new(lan, state, vm));
  TRY_ASSIGN(json vm_state, vm.load());
  Member member{vm.name, vm.scope, vm.dir, 0, state.mac_for(lan.name, vm.name), {}};
  TRY_ASSIGN(member.port, state.port_for(vm.name));
  // A command that was killed may have left the port open.
  TRY(call_switch(lan, state, {{"op", "remove"}, {"port", member.port}}, deadline));
  TRY(call_switch(lan, state, {{"op", "add"}, {"port", member.port}}, deadline));
  state.ports[vm.name] = member.port;
  state.members.push_back(member);
  TRY(save_state(lan, state));
  drop_nic(vm_state, lan.name);
  vm_state["nics"].push_back({{"lan", lan.name},
                              {"dir", lan.dir},
                              {"mac", member.mac},
                              {"address", state.address(member.port)}});
  TRY(vm.save(vm_state));
  if (vm::actual_state(vm, vm_state) != "booted") return {};
  TRY(vm::call_supervisor(
      vm, request_of("plug", {{"nic", vm::nic_to_json(nic_spec(lan, state, member))}}), deadline,
      "lan"));
  return {};
}

// Takes the card out of a VM; the VM's own state is in order afterwards.
Result<> take_card(const Object& lan, const Member& member, const Deadline& deadline, bool force) {
  const Object vm = member.object();
  const auto lock = vm::lock_vm(vm, deadline);
  if (!lock) return lock.error().code == Code::no_such_vm ? Result<>() : fail(lock.error());
  TRY_ASSIGN(json vm_state, vm.load());
  const std::string now = vm::actual_state(vm, vm_state);
  if (now == "paused" && !force)
    return vm::require_state(vm, vm_state, "detach", {"created", "shutdown", "booted", "dead"});
  if (vm::is_running(now)) {
    const uint64_t limit_ns = force ? k_forced_release_ns : deadline.left_ns();
    const auto out = vm::call_supervisor(vm, request_of("unplug", {{"lan", lan.name}}),
                                         at_most(limit_ns, deadline), "lan");
    const bool died = !out && out.error().code == Code::guest_died;
    if (!out && !died && !force) return fail(out.error());
    if (out && !get_bool(*out, "released") && !force)
      return fail(Code::timeout, fmt::format("VM '{}': {}", vm.name, get_string(*out, "why")));
  }
  drop_nic(vm_state, lan.name);
  return vm.save(vm_state);
}

}  // namespace

Result<> require_switch(const Object& lan, const LanState& state) {
  if (is_alive(state.server)) return {};
  return fail(Code::server_dead,
              fmt::format("lan '{}': its switch is gone; close the lan", lan.name));
}

Result<json> call_switch(const Object& lan, const LanState& state, const json& request,
                         const Deadline& deadline) {
  TRY(require_switch(lan, state));
  TRY_ASSIGN(LineClient client, LineClient::connect(lan.path(k_control_socket), deadline));
  auto reply = client.call(request, deadline);
  if (reply) return reply;
  Error error = reply.error();
  error.message = fmt::format("lan '{}': {}", lan.name, error.message);
  return fail(std::move(error));
}

Error no_such_member(const Object& lan, const LanState& state, std::string_view vm) {
  std::vector<std::string> names;
  for (const Member& member : state.members)
    if (member.exists()) names.push_back(member.vm);
  const std::string known = names.empty() ? "nobody is" : "there are: " + join(names, " ");
  return Error(Code::no_such_vm,
               fmt::format("VM '{}' is not in lan '{}' ({})", printable(vm), lan.name, known))
      .with("valid", names);
}

Result<> send_link(const Object& lan, const LanState& state, const Member& member,
                   const Deadline& deadline) {
  json request = link_to_json(member.link);
  request["op"] = "link";
  request["port"] = member.port;
  TRY(call_switch(lan, state, request, deadline));
  return {};
}

Result<> show_carrier(const Object& lan, const Member& member, const Deadline& deadline) {
  const Object vm = member.object();
  const std::string now = state_of(vm);
  if (!vm::is_running(now)) return {};
  const auto shown = vm::call_supervisor(
      vm, request_of("link", {{"lan", lan.name}, {"up", member.link.up}}), deadline, "lan");
  if (shown || shown.error().code == Code::guest_died) return {};
  return fail(shown.error());
}

Result<> remove_member(const Object& lan, LanState& state, const std::string& name,
                       const Deadline& deadline, bool force) {
  const Member* found = state.member(name);
  if (!found) return fail(no_such_member(lan, state, name));
  const Member member = *found;
  TRY(take_card(lan, member, deadline, force));
  if (is_alive(state.server)) {
    const auto removed = call_switch(lan, state, {{"op", "remove"}, {"port", member.port}},
                                     force ? at_most(k_forced_switch_ns, deadline) : deadline);
    if (!removed && !force) return fail(removed.error());
  }
  std::erase_if(state.members, [&](const Member& each) { return each.vm == name; });
  return save_state(lan, state);
}

Result<> attach(const Object& lan, const std::vector<Object>& vms, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_lan(lan, deadline));
  TRY_ASSIGN(LanState state, load_state(lan));
  TRY(require_switch(lan, state));
  prune(lan, state, deadline);
  std::set<std::string> names;
  for (const Object& vm : vms) {
    TRY(check_new(lan, state, vm));
    if (!names.insert(vm.name).second)
      return fail(Code::usage, fmt::format("VM '{}' is named twice", vm.name));
  }
  Result<> done;
  for (const Object& vm : vms)
    if (done) done = add_member(lan, state, vm, deadline);
  if (done) done = tell_members(lan, state, names, /*wait=*/true, deadline);
  if (done) return {};
  const Deadline later = Deadline::in_ns(deadline.left_ns() + k_forced_release_ns);
  for (const std::string& name : names)
    static_cast<void>(remove_member(lan, state, name, later, /*force=*/true));
  static_cast<void>(tell_members(lan, state, {}, /*wait=*/false, later));
  return done;
}

Result<> detach(const Object& lan, const std::vector<std::string>& vms, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_lan(lan, deadline));
  TRY_ASSIGN(LanState state, load_state(lan));
  for (const std::string& vm : vms) {
    const Member* member = state.member(vm);
    if (!member || !member->exists()) return fail(no_such_member(lan, state, vm));
  }
  Result<> done;
  for (const std::string& vm : vms)
    if (done) done = remove_member(lan, state, vm, deadline, /*force=*/false);
  prune(lan, state, deadline);
  const auto told = tell_members(lan, state, {}, /*wait=*/true, deadline);
  return done ? told : done;
}

void catch_up(const Object& vm, const std::vector<vm::NicSpec>& told, const Deadline& deadline) {
  const auto vm_state = vm.load();
  const auto now = vm_state ? nics_of_vm(vm, *vm_state) : fail(vm_state.error());
  if (!now || *now == told) return;
  for (const json& nic : (*vm_state)["nics"]) {
    const Object lan = lan_of(nic);
    const auto lock = lock_lan(lan, deadline);
    auto state = lock ? load_state(lan) : fail(lock.error());
    if (!state) continue;
    const Member* member = state->member(vm.name);
    if (member && member->dir == vm.dir)
      static_cast<void>(tell_member(lan, *state, *member, /*wait=*/true, deadline));
  }
}

void leave_lans(const json& vm_state, const Deadline& deadline) {
  const json* nics = find(vm_state, "nics");
  if (!nics || !nics->is_array()) return;
  for (const json& nic : *nics) {
    const Object lan = lan_of(nic);
    const auto lock = lock_lan(lan, deadline);
    auto state = lock ? load_state(lan) : fail(lock.error());
    if (!state) continue;
    // Whoever changes the lan next would do the same, should this fail.
    prune(lan, *state, deadline);
    static_cast<void>(tell_members(lan, *state, {}, /*wait=*/false, deadline));
  }
}

}  // namespace pv::lan
