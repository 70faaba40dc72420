// SPDX-License-Identifier: MIT
#include "vm/supervisor/nics.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_tell_ns = 60 * k_ns_per_s;
constexpr uint64_t k_look_ns = 10 * k_ns_per_ms;
constexpr uint64_t k_max_look_ns = 15 * k_ns_per_s;

}  // namespace

void Nics::start(const std::vector<NicSpec>& nics, const std::vector<size_t>& slots) {
  for (size_t i = 0; i < nics.size(); ++i) nics_[nics[i].lan] = {nics[i], slots.at(i), true, 0, {}};
}

json Nics::list() const {
  json all = json::array();
  for (const auto& [lan, nic] : nics_) {
    json one = nic_to_json(nic.spec);
    one["slot"] = nic.slot;
    all.push_back(std::move(one));
  }
  return all;
}

void Nics::cut_loose() {
  for (auto& [lan, nic] : nics_) {
    if (!nic.spec.socket.empty()) continue;
    nic.spec.up = false;
    apply_link(nic, k_qmp_ns, [](const Result<json>&) {});
  }
}

bool Nics::busy() const {
  return telling_ || std::any_of(nics_.begin(), nics_.end(), [](const auto& entry) {
           return !entry.second.plugged || !entry.second.releases.empty();
         });
}

bool Nics::has_slot(size_t slot) const {
  return std::any_of(nics_.begin(), nics_.end(),
                     [slot](const auto& entry) { return entry.second.slot == slot; });
}

void Nics::plug(const NicSpec& nic, size_t slot, uint64_t timeout_ns, const Reply& reply) {
  if (nics_.count(nic.lan) != 0)
    return reply(fail(Code::duplicate_name,
                      fmt::format("VM '{}' has a card in lan '{}' already", vm_, nic.lan)));
  nics_[nic.lan] = {nic, slot, false, 0, {}};
  qmp_->execute("netdev_add", netdev_arguments(nic, slot), timeout_ns,
                [this, lan = nic.lan, timeout_ns, reply](Result<json> result) {
                  if (result) return add_device(lan, timeout_ns, reply);
                  nics_.erase(lan);
                  reply(fail(result.error()));
                });
}

void Nics::add_device(const std::string& lan, uint64_t timeout_ns, const Reply& reply) {
  Nic& nic = nics_.at(lan);
  qmp_->execute("device_add", nic_arguments(nic.spec, nic.slot), timeout_ns,
                [this, lan, timeout_ns, reply](const Result<json>& result) {
                  Nic& added = nics_.at(lan);
                  if (result) {
                    added.plugged = true;
                    if (!added.spec.up) apply_link(added, timeout_ns, [](const Result<json>&) {});
                    return reply(json({{"slot", added.slot}}));
                  }
                  qmp_->execute("netdev_del", {{"id", netdev_name(added.slot)}}, k_qmp_ns,
                                [](const Result<json>&) {});
                  nics_.erase(lan);
                  reply(fail(result.error()));
                });
}

void Nics::apply_link(const Nic& nic, uint64_t timeout_ns, JsonReply reply) {
  qmp_->execute("set_link", {{"name", nic_name(nic.slot)}, {"up", nic.spec.up}}, timeout_ns,
                std::move(reply));
}

void Nics::set_link(const std::string& lan, bool up, uint64_t timeout_ns, const Reply& reply) {
  const auto found = nics_.find(lan);
  if (found == nics_.end() || !found->second.plugged)
    return reply(fail(Code::invalid, fmt::format("VM '{}' has no card in lan '{}'", vm_, lan)));
  found->second.spec.up = up;
  apply_link(found->second, timeout_ns, [reply](const Result<json>& result) {
    if (!result) return reply(fail(result.error()));
    reply(json::object());
  });
}

void Nics::unplug(const std::string& lan, uint64_t timeout_ns, const Reply& reply) {
  const auto found = nics_.find(lan);
  // Plugged in by a command that was killed before it could say so.
  if (found == nics_.end()) return reply(json({{"released", true}}));
  Nic& nic = found->second;
  nic.releases.push_back(reply);
  if (nic.timer != 0) return;
  nic.timer =
      loop_.after(timeout_ns, [this, lan] { kept(lan, "the guest has not released it in time"); });
  qmp_->execute(
      "device_del", {{"id", nic_name(nic.slot)}}, k_qmp_ns,
      [this, lan](const Result<json>& result) {
        // Asked once before: the guest may still let go of it.
        if (!result && result.error().message.find("already in the process") == std::string::npos)
          kept(lan, result.error().message);
      });
}

void Nics::released(const std::string& lan) {
  const size_t slot = nics_.at(lan).slot;
  qmp_->execute("netdev_del", {{"id", netdev_name(slot)}}, k_qmp_ns,
                [this, lan](const Result<json>&) {
                  const auto found = nics_.find(lan);
                  if (found == nics_.end()) return;
                  const Nic gone = std::move(found->second);
                  nics_.erase(found);
                  loop_.cancel(gone.timer);
                  tell_guest();  // the names of that lan go
                  for (const Reply& reply : gone.releases) reply(json({{"released", true}}));
                });
}

void Nics::kept(const std::string& lan, const std::string& why) {
  const auto found = nics_.find(lan);
  if (found == nics_.end()) return;
  loop_.cancel(std::exchange(found->second.timer, 0));
  for (const Reply& reply : std::exchange(found->second.releases, {}))
    reply(json({{"released", false}, {"why", why}}));
}

void Nics::configure(const NicSpec& nic, uint64_t timeout_ns, Done done) {
  const auto found = nics_.find(nic.lan);
  if (found == nics_.end())
    return done(fail(Code::invalid, fmt::format("VM '{}' has no card in lan '{}'", vm_, nic.lan)));
  const bool moved = found->second.spec.up != nic.up;
  found->second.spec = nic;
  if (moved) apply_link(found->second, timeout_ns, [](const Result<json>&) {});
  waiting_.push_back(std::move(done));
  tell_ns_ = timeout_ns;
  tell_guest();
}

void Nics::bring_up(uint64_t timeout_ns, Done done) {
  if (nics_.empty()) return done({});
  for (const auto& [lan, nic] : nics_)
    if (!nic.spec.up) apply_link(nic, k_qmp_ns, [](const Result<json>&) {});
  waiting_.push_back(std::move(done));
  tell_ns_ = timeout_ns;
  tell_guest();
}

void Nics::on_event(const std::string& event, const json& data) {
  if (event == "RESET") guest_knows_nothing_ = true;
  if (event != "DEVICE_DELETED" && event != "DEVICE_UNPLUG_GUEST_ERROR") return;
  const std::string device = get_string(data, "device");
  for (const auto& [lan, nic] : nics_) {
    if (device != nic_name(nic.slot)) continue;
    const std::string name = lan;
    if (event == "DEVICE_DELETED") return released(name);
    return kept(name, "the guest refuses to release it");
  }
}

void Nics::on_agent_ready(Done done) {
  if (!std::exchange(guest_knows_nothing_, false) || nics_.empty()) return done({});
  waiting_.push_back(std::move(done));
  tell_ns_ = k_tell_ns;
  tell_guest();
}

void Nics::tell_guest() {
  if (telling_) {
    tell_again_ = true;
    return;
  }
  telling_ = true;
  tell_again_ = false;
  std::vector<NicSpec> specs;
  for (const auto& [lan, nic] : nics_)
    if (nic.plugged) specs.push_back(nic.spec);
  GuestCommand command;
  command.timeout_ns = tell_ns_ != 0 ? tell_ns_ : k_tell_ns;
  const uint64_t look_ns = std::min(command.timeout_ns / 2, k_max_look_ns);
  command.argv = {"/bin/sh", "-c", k_nic_script, "sh",
                  std::to_string(std::max<uint64_t>(look_ns / k_look_ns, 1))};
  command.input = nic_script_input(specs);
  command.has_input = true;
  runs_.start(command, [this, argv = command.argv, waiting = std::exchange(waiting_, {})](
                           const Result<json>& status) { told(waiting, verdict(argv, status)); });
}

void Nics::told(std::vector<Done> waiting, Result<> result) {
  telling_ = false;
  if (tell_again_) tell_guest();
  for (const Done& done : waiting) done(result);
}

Result<> Nics::verdict(const std::vector<std::string>& argv, const Result<json>& status) const {
  const auto what = [this](const std::string& why) {
    return fmt::format("VM '{}': its network is not set up: {}", vm_, why);
  };
  if (!status) {
    Error error = status.error();
    error.message = what(error.message);
    return fail(std::move(error));
  }
  const json run = run_document(argv, *status);
  if (get_u64(run, "exit_status", 1) == 0) return {};
  return fail(Code::agent, what(last_words(run, "the guest gives no reason")));
}

void Nics::fail_all(const Error& error) {
  for (auto& [lan, nic] : nics_)
    for (const Reply& reply : std::exchange(nic.releases, {})) reply(fail(error));
  for (const Done& done : std::exchange(waiting_, {})) done(fail(error));
  nics_.clear();
}

}  // namespace pv::vm
