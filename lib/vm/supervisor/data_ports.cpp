// SPDX-License-Identifier: MIT
#include "vm/supervisor/data_ports.hpp"

#include <algorithm>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_first_check_ns = k_ns_per_ms;
constexpr uint64_t k_max_check_ns = 20 * k_ns_per_ms;
// Older than QEMU's interval of one second between two events of a port: the event will come.
constexpr uint64_t k_young_ns = 1500 * k_ns_per_ms;
constexpr uint64_t k_old_check_ns = k_ns_per_s;
constexpr auto k_max_unsettled = 2;
constexpr size_t k_data_ports_max_waiting = 256;
// A lease that is not used for so long does not keep others waiting any more.
constexpr uint64_t k_settled_ns = 5 * k_ns_per_s;
constexpr uint64_t k_unplug_after_ns = 3 * k_ns_per_s;
constexpr uint64_t k_remove_again_ns = 20 * k_ns_per_ms;
constexpr int k_removals = 100;
// Has the ports of a lease that has ended before its guest process. No connection's number.
constexpr DataPorts::Owner k_nobody = ~DataPorts::Owner{0};

bool is_open(const json& chardevs, size_t port) {
  for (const json& entry : chardevs)
    if (get_string(entry, "label") == data_chardev(port)) return get_bool(entry, "frontend-open");
  return false;
}

}  // namespace

bool is_throttled(std::string_view qtree, size_t nr) {
  const std::string head = fmt::format(" port {}, ", nr);
  const size_t at = qtree.find(head);
  if (at == std::string_view::npos) return false;
  return qtree.substr(at, qtree.find('\n', at) - at).find("throttle on") != std::string_view::npos;
}

DataPorts::~DataPorts() {
  for (const auto& [owner, lease] : leases_) {
    loop_.cancel(lease.timer);
    loop_.cancel(lease.settle_timer);
  }
}

void DataPorts::start(const std::vector<size_t>& plugged) {
  for (const size_t port : plugged) ports_.at(port).state = State::plugged;
}

std::vector<size_t> DataPorts::plugged() const {
  std::vector<size_t> plugged;
  for (size_t port = 0; port < ports_.size(); ++port)
    if (ports_[port].state == State::plugged) plugged.push_back(port);
  return plugged;
}

bool DataPorts::changing() const {
  return std::any_of(ports_.begin(), ports_.end(),
                     [](const Port& port) { return port.state == State::changing; });
}

std::string DataPorts::socket(size_t port) const {
  return data_socket(vm_.dir, port);
}

void DataPorts::lease(Owner owner, size_t count, uint64_t timeout_ns, JsonReply reply) {
  if (count == 0 || count > k_max_data_ports || leases_.count(owner) != 0)
    return reply(fail(Code::invalid, "stream_open: one lease of 1 to 24 ports per connection"));
  if (waiting_.size() >= k_data_ports_max_waiting)
    return reply(fail(Code::in_use, "too many streams are waiting for the guest"));
  waiting_.push_back({owner, count, timeout_ns, std::move(reply)});
  begin_waiting();
}

void DataPorts::begin_waiting() {
  while (!waiting_.empty()) {
    const auto unsettled = std::count_if(leases_.begin(), leases_.end(),
                                         [](const auto& item) { return !item.second.settled; });
    if (unsettled >= k_max_unsettled) return;
    const Waiting wanted = std::move(waiting_.front());
    waiting_.pop_front();
    begin(wanted);
  }
}

void DataPorts::begin(const Waiting& wanted) {
  const Owner owner = wanted.owner;
  Lease& lease = leases_[owner];
  lease.since_ns = system_clock().now_ns();
  lease.settle_timer = loop_.after(k_settled_ns, [this, owner] {
    if (const auto found = leases_.find(owner); found != leases_.end()) settle(found->second);
  });
  qmp_->execute(
      "query-chardev", nullptr, wanted.timeout_ns, [this, wanted](const Result<json>& chardevs) {
        if (leases_.count(wanted.owner) == 0) return;  // it has gone away meanwhile
        const auto ports =
            chardevs ? choose(wanted.owner, wanted.count, *chardevs) : fail(chardevs.error());
        if (ports) return chosen(wanted, *ports);
        end(wanted.owner);
        wanted.reply(fail(ports.error()));
      });
}

void DataPorts::chosen(const Waiting& wanted, const std::vector<size_t>& ports) {
  Lease& lease = leases_[wanted.owner];
  lease.ports = ports;
  std::vector<size_t> absent;
  for (const size_t port : ports)
    if (ports_[port].state == State::absent) absent.push_back(port);
  lease.to_plug = absent.size();
  if (absent.empty()) return plugged(wanted.owner, ports.at(0), json(), wanted.reply);
  for (const size_t port : absent) plug(wanted.owner, port, wanted.timeout_ns, wanted.reply);
}

void DataPorts::settle(Lease& lease) {
  lease.settled = true;
  loop_.cancel(std::exchange(lease.settle_timer, 0));
  begin_waiting();
}

// Ports that are there first.
Result<std::vector<size_t>> DataPorts::choose(Owner owner, size_t count, const json& chardevs) {
  std::vector<size_t> chosen;
  for (const State wanted : {State::plugged, State::absent}) {
    for (size_t port = 0; port < ports_.size() && chosen.size() < count; ++port) {
      const Port& candidate = ports_[port];
      if (candidate.owner != 0 || candidate.state != wanted || is_open(chardevs, port)) continue;
      chosen.push_back(port);
    }
  }
  if (chosen.size() < count)
    return fail(Code::in_use,
                fmt::format("VM '{}' has no free data port for one more stream (all {} are in use)",
                            vm_.name, k_max_data_ports));
  for (const size_t port : chosen) {
    ports_[port].owner = owner;
    ++ports_[port].leases;
  }
  return chosen;
}

void DataPorts::plug(Owner owner, size_t port, uint64_t timeout_ns, const JsonReply& reply) {
  ports_[port].state = State::changing;
  const json address = {{"type", "unix"}, {"data", {{"path", socket(port)}}}};
  const json backend = {{"type", "socket"},
                        {"data", {{"addr", address}, {"server", true}, {"wait", false}}}};
  const auto add_device = [this, owner, port, timeout_ns, reply](const Result<json>& added) {
    if (!added) return plugged(owner, port, added, reply);
    qmp_->execute("device_add", data_port_arguments(port), timeout_ns,
                  [this, owner, port, reply](const Result<json>& result) {
                    if (!result)
                      qmp_->execute("chardev-remove", {{"id", data_chardev(port)}}, k_qmp_ns,
                                    [](const Result<json>&) {});
                    plugged(owner, port, result, reply);
                  });
  };
  qmp_->execute("chardev-add", {{"id", data_chardev(port)}, {"backend", backend}}, timeout_ns,
                add_device);
}

// Called for each port that was to be plugged, or once when there was none.
void DataPorts::plugged(Owner owner, size_t port, const Result<json>& result,
                        const JsonReply& reply) {
  if (ports_[port].state == State::changing)
    ports_[port].state = result ? State::plugged : State::absent;
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;  // whoever asked has gone away
  Lease& lease = found->second;
  if (!result) {
    end(owner);
    return reply(fail(result.error()));
  }
  if (lease.to_plug > 0 && --lease.to_plug > 0) return;
  json ports = json::array();
  for (const size_t leased : lease.ports)
    ports.push_back({{"nr", leased + k_first_data_nr}, {"socket", socket(leased)}});
  reply(json({{"ports", std::move(ports)}}));
}

void DataPorts::watch(Owner owner, std::function<void()> closed) {
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;
  found->second.since_ns = system_clock().now_ns();
  found->second.in_use = true;
  found->second.closed = std::move(closed);
  check_later(owner);
}

void DataPorts::drain(Owner owner, std::function<void()> drained) {
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return drained();
  found->second.drained = std::move(drained);
  found->second.closed = nullptr;
  check(owner);
}

void DataPorts::check(Owner owner) {
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;
  Lease& lease = found->second;
  loop_.cancel(std::exchange(lease.timer, 0));
  if (std::exchange(lease.checking, true)) {
    lease.check_again = true;
    return;
  }
  qmp_->execute("query-chardev", nullptr, k_qmp_ns,
                [this, owner](const Result<json>& result) { checked(owner, result); });
}

void DataPorts::checked(Owner owner, const Result<json>& chardevs) {
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;
  Lease& lease = found->second;
  lease.checking = false;
  if (std::exchange(lease.check_again, false)) return check(owner);
  if (!chardevs) return check_later(owner);
  const bool open = std::any_of(lease.ports.begin(), lease.ports.end(),
                                [&](size_t port) { return is_open(*chardevs, port); });
  if (open && !std::exchange(lease.opened, true)) settle(lease);
  if (!open && lease.drained) return check_throttle(owner);
  if (open || !lease.opened) return check_later(owner);
  if (const auto closed = std::exchange(lease.closed, nullptr)) closed();
}

// A write of the guest is seen by QEMU's main loop before the question that comes after the one
// whose answer said "closed": what is not throttled then is in the socket.
void DataPorts::check_throttle(Owner owner) {
  qmp_->execute("human-monitor-command", {{"command-line", "info qtree"}}, k_qmp_ns,
                [this, owner](const Result<json>& result) {
                  const auto found = leases_.find(owner);
                  if (found == leases_.end()) return;
                  Lease& lease = found->second;
                  const std::string text =
                      result && result->is_string() ? result->get<std::string>() : "";
                  for (const size_t port : lease.ports)
                    if (is_throttled(text, port + k_first_data_nr)) return check_later(owner);
                  if (const auto drained = std::exchange(lease.drained, nullptr)) drained();
                });
}

void DataPorts::check_later(Owner owner) {
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;
  Lease& lease = found->second;
  if (!lease.closed && !lease.drained) return;
  const uint64_t age_ns = system_clock().now_ns() - lease.since_ns;
  const uint64_t pause_ns = !lease.drained && age_ns > k_young_ns
                                ? k_old_check_ns
                                : std::clamp(age_ns / 8, k_first_check_ns, k_max_check_ns);
  loop_.cancel(lease.timer);
  lease.timer = loop_.after(pause_ns, [this, owner] { check(owner); });
}

void DataPorts::port_changed(const std::string& id, bool open) {
  for (size_t port = 0; port < ports_.size(); ++port) {
    if (id != data_device(port)) continue;
    const auto found = leases_.find(ports_[port].owner);
    if (found == leases_.end()) return;
    if (open && !std::exchange(found->second.opened, true)) settle(found->second);
    if (!open && (found->second.closed || found->second.drained)) check(found->first);
  }
}

void DataPorts::end(Owner owner) {
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(),
                                [owner](const Waiting& one) { return one.owner == owner; }),
                 waiting_.end());
  const auto found = leases_.find(owner);
  if (found == leases_.end()) return;
  const std::vector<size_t> ports = std::move(found->second.ports);
  const Owner next = found->second.in_use ? k_nobody : 0;
  loop_.cancel(found->second.timer);
  loop_.cancel(found->second.settle_timer);
  leases_.erase(found);
  for (const size_t port : ports) {
    ports_[port].owner = next;
    ports_[port].last = owner;
    loop_.after(k_unplug_after_ns,
                [this, port, leases = ports_[port].leases] { unplug_if_open(port, leases); });
  }
}

void DataPorts::free(Owner owner) {
  if (const auto found = leases_.find(owner); found != leases_.end()) found->second.in_use = false;
  for (size_t port = 0; port < ports_.size(); ++port)
    if (ports_[port].last == owner) let_go(port);
}

void DataPorts::let_go(size_t port) {
  if (ports_[port].owner == k_nobody) ports_[port].owner = 0;
}

void DataPorts::unplug_if_open(size_t port, uint64_t leases) {
  const auto is_ours = [this, port, leases] {
    const Owner owner = ports_[port].owner;
    return ports_[port].leases == leases && (owner == 0 || owner == k_nobody);
  };
  if (!is_ours()) return;
  if (ports_[port].state != State::plugged) return let_go(port);
  qmp_->execute("query-chardev", nullptr, k_qmp_ns, [this, port, is_ours](Result<json> chardevs) {
    if (!is_ours()) return;
    if (!chardevs || !is_open(*chardevs, port)) return let_go(port);
    ports_[port].state = State::changing;
    qmp_->execute("device_del", {{"id", data_device(port)}}, k_qmp_ns,
                  [this, port](const Result<json>& gone) {
                    let_go(port);
                    if (gone) return remove_chardev(port, k_removals);
                    ports_[port].state = State::plugged;  // and open, so that nobody gets it
                  });
  });
}

// QEMU holds it for a moment after the device has gone.
void DataPorts::remove_chardev(size_t port, int tries) {
  qmp_->execute("chardev-remove", {{"id", data_chardev(port)}}, k_qmp_ns,
                [this, port, tries](const Result<json>& removed) {
                  if (removed || tries == 0)
                    ports_[port].state = removed ? State::absent : State::lost;
                  else
                    loop_.after(k_remove_again_ns,
                                [this, port, tries] { remove_chardev(port, tries - 1); });
                });
}

void DataPorts::remove_sockets() {
  for (size_t port = 0; port < ports_.size(); ++port) unlink(socket(port).c_str());
}

}  // namespace pv::vm
