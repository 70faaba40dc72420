// SPDX-License-Identifier: MIT
// Byte streams between commands of ours and processes in the guest: virtio-serial ports that are
// plugged into the running VM when they are first needed and kept for the next one. A command
// leases some, connects to their sockets itself, and gives them back with its connection. Owned by
// the supervisor, on its thread.
//
// A port can be leased again only when the guest has closed it. QEMU says when that happens, but
// at most once a second for each port, so right after the beginning it is asked instead. A process
// whose lease ends before it does may not even have opened its ports yet: nobody gets those before
// it has ended, or a little later.
//
// QEMU drops what it tells the guest of its ports when the guest has not read the 32 messages
// before. So only a few leases at a time are granted; the next ones wait until the guest has opened
// ports of those.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/control.hpp"
#include "base/run_dir.hpp"
#include "vm/supervisor/qmp.hpp"

namespace pv::vm {

constexpr size_t k_max_data_ports = 24;  // of the 31 that a virtio-serial device has

class DataPorts {
 public:
  using Owner = ControlServer::ConnectionId;

  DataPorts(Loop& loop, const Object& vm) : loop_(loop), vm_(vm) {}
  ~DataPorts();
  void connect(Qmp* qmp) { qmp_ = qmp; }
  // Those that QEMU has from the start, and those that it has now.
  void start(const std::vector<size_t>& plugged);
  std::vector<size_t> plugged() const;
  // True while one is put in or taken out.
  bool changing() const;

  // Answers {"ports":[{"nr","socket"}…]}; the guest may not have seen a new one yet. Code::in_use
  // when all are taken.
  void lease(Owner owner, size_t count, uint64_t timeout_ns, JsonReply reply);
  bool has_lease(Owner owner) const { return leases_.count(owner) != 0; }
  // A guest process is being started that will open them: `closed` is called once when it has
  // opened some and all are closed again.
  void watch(Owner owner, std::function<void()> closed);
  // The guest process has ended: `drained` is called once when nothing in the guest has a port open
  // and QEMU has handed all that was written to the sockets.
  void drain(Owner owner, std::function<void()> drained);
  // The lease ends. What the guest still has open a little later is unplugged, which the guest's
  // processes see as an error. The ports are free at once where free() was called before, or
  // watch() never; else when it is called, or when they have been looked at.
  void end(Owner owner);
  // The guest process of a lease has ended, before the lease or after it.
  void free(Owner owner);
  // VSERPORT_CHANGE of the device `id`.
  void port_changed(const std::string& id, bool open);
  void remove_sockets();

 private:
  enum class State { absent, changing, plugged, lost };  // lost: QEMU does not let go of it
  struct Port {
    State state = State::absent;
    Owner owner = 0;
    Owner last = 0;       // whose lease has ended before its guest process
    uint64_t leases = 0;  // how often it was leased
  };
  struct Lease {
    std::vector<size_t> ports;
    size_t to_plug = 0;
    uint64_t since_ns = 0;
    bool opened = false;
    bool in_use = false;   // by a guest process that may open them at any time
    bool settled = false;  // what was to be told to the guest has been heard there
    TimerId settle_timer = 0;
    bool checking = false, check_again = false;
    TimerId timer = 0;
    std::function<void()> closed, drained;
  };
  struct Waiting {
    Owner owner;
    size_t count;
    uint64_t timeout_ns;
    JsonReply reply;
  };
  void begin(const Waiting& wanted);
  void begin_waiting();
  void chosen(const Waiting& wanted, const std::vector<size_t>& ports);
  void settle(Lease& lease);
  std::string socket(size_t port) const;
  Result<std::vector<size_t>> choose(Owner owner, size_t count, const json& chardevs);
  void plug(Owner owner, size_t port, uint64_t timeout_ns, const JsonReply& reply);
  void plugged(Owner owner, size_t port, const Result<json>& result, const JsonReply& reply);
  void check(Owner owner);
  void checked(Owner owner, const Result<json>& chardevs);
  void check_throttle(Owner owner);
  void check_later(Owner owner);
  void let_go(size_t port);
  void unplug_if_open(size_t port, uint64_t leases);
  void remove_chardev(size_t port, int tries);

  Loop& loop_;
  const Object& vm_;
  Qmp* qmp_ = nullptr;
  std::array<Port, k_max_data_ports> ports_;
  std::map<Owner, Lease> leases_;
  std::deque<Waiting> waiting_;
};

// True when the port of this number holds data that its socket did not take yet, by QEMU's text of
// "info qtree".
bool is_throttled(std::string_view qtree, size_t nr);

}  // namespace pv::vm
