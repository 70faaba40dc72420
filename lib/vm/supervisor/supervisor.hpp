// SPDX-License-Identifier: MIT
// The supervisor: one process per booted VM, single-threaded on one event loop. It owns QEMU (its
// pidfd, its exit status, its stderr), a QMP monitor of its own, the guest agent's connection and
// the event log, and serves the commands on its control socket. QEMU dies with it.
//
// Requests ({"op":…,"timeout_ms":…}) and replies:
//   status                            {"runs","streams":[…],"open_files","agent",
//                                      "disks":{id:slot},"qemu_pid","shares_memory"}; streams:
//                                      holders.hpp
//   run argv env stdin_b64 lease      {"status":{…}}      as guest-exec-status has it
//   stream_open ports kind caller     {"ports":[{"nr","socket"}…]}  until the connection ends
//   qmp execute arguments             {"return":…}
//   agent execute arguments           {"return":…}
//   plug disk socket                  {"slot"}          the guest may not have seen it yet
//   unplug id                         {"released"}      true after DEVICE_DELETED
//   resize id size_bytes              {}                the disk's server has hung up on QEMU
//   eject id force                    {}                the disc is out
//   pause, resume                     {}
//   reset                             {"reset_ms"}      the agent of the new boot has answered
//   power_button                      {"reason"}        the guest has powered off
//   power_cut                         {"reason"}        QEMU has been killed
//   net do …                          see net.cpp
//   snap.…                            see snapshots.hpp; what else comes meanwhile waits
//   quit why                          {"forced","reason"}
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/control.hpp"
#include "base/dir_guard.hpp"
#include "base/loop.hpp"
#include "base/process.hpp"
#include "base/run_dir.hpp"
#include "vm/argv.hpp"
#include "vm/supervisor/agent.hpp"
#include "vm/supervisor/data_ports.hpp"
#include "vm/supervisor/event_log.hpp"
#include "vm/supervisor/freezer.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/supervisor/guest_setup.hpp"
#include "vm/supervisor/holders.hpp"
#include "vm/supervisor/nics.hpp"
#include "vm/supervisor/qmp.hpp"
#include "vm/supervisor/runner.hpp"
#include "vm/supervisor/slots.hpp"
#include "vm/supervisor/snapshots.hpp"

namespace pv::vm {

// How long a request may take.
uint64_t timeout_of(const json& request);

// A machine that does not begin with its firmware, but where a snapshot of it was taken.
struct RestorePlan {
  std::string dir;    // of the snapshot
  std::string state;  // absolute paths of its files
  std::string ram;
  bool mapped = true;   // QEMU maps `ram` itself, not a copy
  bool shared = false;  // it gets a copy in memory that others can map too
  bool paused = false;
  bool host_clock = false;
  bool agent = true;    // one was there, and will answer
  bool frozen = false;  // so are the guest's file systems, which the agent thaws
  std::vector<size_t> data_ports;
  std::string runner;  // its nonce, see runner.hpp
};

// Everything that the supervisor needs to know, fixed by `boot` before the fork.
struct BootPlan {
  Object vm;
  json state;  // saved as it is, with the processes and times added, once the VM has booted
  std::vector<std::string> argv;
  Qemu qemu;
  Slots disks;
  std::vector<NicSpec> nics;
  std::vector<size_t> nic_slots;
  size_t ports = 0;
  std::optional<RestorePlan> restore;
  uint64_t started_ns = 0;
  uint64_t timeout_ns = 0;  // until the agent has answered
  bool no_agent = false;    // it is not waited for
  GuestWork work;           // once it has
};

class Supervisor {
 public:
  // Runs until QEMU has ended. `ready` gets one JSON message: {"boot_ms"} or {"error"}; until
  // then the VM's `lock` is held. Returns the exit code of the process.
  static int run(BootPlan plan, Fd ready, Fd lock);

 private:
  using Reply = ControlServer::Reply;
  enum class Phase { booting, running, ending };

  Supervisor(BootPlan plan, Fd ready, Fd lock, std::unique_ptr<Loop> loop);
  Result<> start();
  Result<> start_qemu();
  Result<Fd> make_memory() const;
  Result<> watch_ready_pipe();
  void connect_qmp();
  void on_qmp_ready();
  void check_memory();
  void on_event(const json& event);
  void agent_port(bool open);
  void on_agent_ready();
  void after_agent();
  void set_up();
  void booted();

  // restore.cpp
  Result<> open_snapshot();
  bool trusts_agent() const;
  void load_snapshot();
  void snapshot_loaded();
  void migration_event(const json& data);

  std::string why_not_booted() const;
  Result<> save_booted();
  void boot_failed(Error error);
  void report(const json& message);
  void be_small_when_idle();
  void quit();  // asks QEMU to end, then makes it
  void cut_power();
  void on_qemu_exit();
  json end_record(const ExitStatus& status) const;
  void flush_replies();
  void remove_sockets();

  // ops.cpp
  void on_request(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_status(const Reply& reply);
  void op_run(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_power_cut(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_qmp(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_agent(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_plug(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_unplug(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_resize(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_eject(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_snap(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  Result<> snapshot_obstacle() const;
  json plugged_devices() const;
  // net.cpp
  void op_net(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  std::optional<size_t> free_slot() const;

  // plug.cpp
  Error private_memory(const std::string& disk) const;
  void add_device(const DiskSpec& disk, size_t slot, uint64_t timeout_ns, const Reply& reply);
  void add_vhost_user(const DiskSpec& disk, const ProcessId& server, size_t slot,
                      uint64_t timeout_ns, const Reply& reply);
  void add_drive(const json& drive, size_t slot, uint64_t timeout_ns, const Reply& reply);
  void plugged(size_t slot, const Reply& reply);
  void not_plugged(size_t slot, const Error& error, const Reply& reply);
  void remove_backend(size_t slot, JsonReply done);

  void remove_medium(size_t slot, uint64_t timeout_ns, const Reply& reply);
  std::optional<size_t> slot_of(const json& request, const Reply& reply);
  void device_deleted(size_t slot);
  void device_kept(size_t slot, const std::string& why);

  // life.cpp
  void op_pause(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_resume(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_reset(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void op_power_button(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void mark_paused(bool paused);
  void guest_reset(bool by_guest);
  void agent_is_back();
  std::string console_since_reset();
  void end_reset(Result<json> result);
  void answer_all(const json& end, const Error& error);
  std::string console_tail() const;

  struct Reset {
    std::optional<Reply> reply;  // who waits for it
    TimerId timer = 0;
    uint64_t started_ns = 0;
    bool seen = false;  // QEMU has done its part
  };
  struct PowerOff {
    TimerId timer;
    Reply reply;
  };
  // streams.cpp
  void op_stream_open(ControlServer::ConnectionId id, const json& request, const Reply& reply);
  void start_run(ControlServer::ConnectionId id, GuestCommand command, const Reply& reply);
  void run_abandoned(ControlServer::ConnectionId id);
  void connection_ended(ControlServer::ConnectionId id);

  struct Unplug {
    TimerId timer;
    std::string id;
    std::vector<Reply> replies;
  };

  BootPlan plan_;
  Fd ready_;
  Fd lock_;  // the VM's, while it boots
  std::unique_ptr<Loop> loop_;
  EventLog events_;
  std::unique_ptr<DirGuard> home_;
  Child qemu_;
  ProcessId qemu_id_;
  std::unique_ptr<Qmp> qmp_;
  bool qmp_up_ = false;
  bool shares_memory_ = false;  // with whoever QEMU hands it to
  bool port_opened_ = false;    // by the guest's agent
  bool setting_up_ = false;     // the agent has answered for the first time
  uint64_t console_bytes_ = 0;  // of earlier boots
  Agent agent_;
  Runner runner_;
  GuestRuns runs_;
  GuestSetup setup_;
  DataPorts ports_;
  Freezer freezer_;
  Holders holders_;
  Nics nics_;
  Snapshots snapshots_;
  Fd snapshot_lock_, snapshot_state_;  // of the one that it was restored from
  std::vector<std::function<void()>> deferred_;
  ControlServer control_;
  std::map<ControlServer::ConnectionId, GuestRuns::Id> run_of_;
  std::map<ControlServer::ConnectionId, TimerId> drain_timers_;
  Slots slots_;
  std::map<size_t, Unplug> unplugs_;
  std::vector<Reply> quit_replies_;
  Reset reset_;
  std::vector<PowerOff> power_offs_;
  std::vector<int> vcpu_threads_;
  int resets_ = 0;  // by the guest, since its agent last answered
  uint64_t last_reset_ns_ = 0;
  uint64_t reset_console_bytes_ = 0;  // of the console when it last began
  std::string quit_reason_ = "it was closed";
  TimerId boot_timer_ = 0, quit_timer_ = 0, idle_timer_ = 0;
  Phase phase_ = Phase::booting;
  bool quit_asked_ = false;
  bool guest_powered_off_ = false;
  bool power_cut_ = false;
  bool boot_failed_ = false;
  bool forced_ = false;
};

}  // namespace pv::vm
