// SPDX-License-Identifier: MIT
// The VM's part of a snapshot: its CPUs stand still, the state of its devices and its memory go
// into files. A command leads it in five requests on one connection, and sees to the disks between
// them:
//   snap.check dir  {"flushes"}  nothing is in the way; what can be copied beforehand is
//   snap.stop       {"flushes"}  the CPUs stand still, the disks have nothing to do
//   snap.save       {"devices"}  `state` is in `dir`, and QEMU has nothing more to say to the disks
//   snap.ram        `ram` is in `dir`
//   snap.end        {"paused_ms"}  the CPUs go on, if they did before
// "flushes" counts, by disk, those that the guest has asked for: QEMU itself sends one more when it
// stops, and one when it saves. Not so to vhost-user disks, which are left out. When the connection
// ends anywhere between, the CPUs go on. Owned by the supervisor, on its thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/control.hpp"
#include "base/fd.hpp"
#include "base/run_dir.hpp"
#include "vm/supervisor/guest_ram.hpp"
#include "vm/supervisor/qmp.hpp"
#include "vm/supervisor/slots.hpp"
#include "vm/supervisor/state_sink.hpp"

namespace pv::vm {

// How a state is written and read: without the RAM, which is a file of its own; and telling its
// end.
json state_capabilities();

class Snapshots {
 public:
  using Owner = ControlServer::ConnectionId;
  using Reply = ControlServer::Reply;
  struct Parts {
    Loop& loop;
    std::unique_ptr<Qmp>& qmp;
    const Object& vm;
    const Slots& disks;
    std::function<Result<>()> obstacle;  // what must have ended before
    std::function<json()> devices;       // where everything is plugged
    std::function<bool()> is_paused;
    std::function<void()> over;  // the CPUs go on
  };
  explicit Snapshots(Parts parts) : parts_(std::move(parts)), sink_(parts_.loop) {}

  GuestRam& ram() { return ram_; }
  // The front of a state (device_state.hpp) that this VM was restored from.
  void set_front(Fd state, size_t bytes);

  void request(Owner owner, const json& request, const Reply& reply);
  void ended(Owner owner);
  // MIGRATION events.
  void on_event(const json& data);

  bool busy() const { return owner_ != 0; }
  // QEMU's STOP and RESUME are of our making.
  bool quiet() const { return stopping_; }

 private:
  void check(const json& request, const Reply& reply);
  void stop(const json& request, const Reply& reply);
  void save(const json& request, const Reply& reply);
  void end(const Reply& reply);
  void count_flushes(uint64_t timeout_ns, const Reply& reply);
  void save_all(uint64_t timeout_ns, const Reply& reply);
  void save_devices(uint64_t timeout_ns, const Reply& reply);
  void migrate_if_done();
  Result<> keep_front(const std::string& stream);
  Result<json> finish_save(const std::string& stream);
  Result<json> save_ram();
  void forget();

  Parts parts_;
  GuestRam ram_;
  StateSink sink_;
  Owner owner_ = 0;
  std::string dir_;
  Fd ram_file_;
  bool stopping_ = false, was_running_ = false;
  uint64_t stopped_ns_ = 0;
  Fd front_;
  size_t front_bytes_ = 0;
  // A migration under way: it is over when both its stream and its last word are here.
  std::optional<Reply> migrating_;
  std::optional<std::string> stream_;
  bool completed_ = false;
};

}  // namespace pv::vm
