// SPDX-License-Identifier: MIT
#include "vm/supervisor/supervisor.hpp"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_connect_again_ns = 2 * k_ns_per_ms;
constexpr uint64_t k_idle_ns = k_ns_per_s / 2;
constexpr int k_large_block = 128 << 10;

}  // namespace

Supervisor::Supervisor(BootPlan plan, Fd ready, Fd lock, std::unique_ptr<Loop> loop)
    : plan_(std::move(plan)),
      ready_(std::move(ready)),
      lock_(std::move(lock)),
      loop_(std::move(loop)),
      agent_(*loop_),
      runner_(*loop_),
      runs_(*loop_, agent_, runner_),
      setup_(agent_, runs_),
      ports_(*loop_, plan_.vm),
      freezer_(agent_),
      nics_(plan_.vm.name, *loop_, qmp_, runs_),
      snapshots_({*loop_, qmp_, plan_.vm, slots_, [this] { return snapshot_obstacle(); },
                  [this] { return plugged_devices(); },
                  [this] { return access(plan_.vm.path(k_paused_mark).c_str(), F_OK) == 0; },
                  [this] {
                    for (const auto& begin : std::exchange(deferred_, {})) begin();
                  }}),
      control_(*loop_,
               [this](ControlServer::ConnectionId id, const json& request, const std::string&,
                      const Reply& reply) { on_request(id, request, reply); }) {}

int Supervisor::run(BootPlan plan, Fd ready, Fd lock) {
  prctl(PR_SET_NAME, "pv-vm-sup");
  // A command's output can be 16 MiB. Set by hand, this limit does not grow with the first large
  // block, and the memory goes back to the system.
  mallopt(M_MMAP_THRESHOLD, k_large_block);
  auto loop = Loop::create();
  const auto refuse = [](const Fd& pipe, const Error& error) {
    static_cast<void>(write_all(pipe.get(), to_line({{"error", error_to_json(error)}})));
    return exit_class(error.code);
  };
  if (!loop) return refuse(ready, loop.error());
  Supervisor self(std::move(plan), std::move(ready), std::move(lock), std::move(*loop));
  if (auto started = self.start(); !started) return refuse(self.ready_, started.error());
  if (auto ran = self.loop_->run(); !ran) return exit_class(ran.error().code);
  self.flush_replies();
  return 0;
}

Result<> Supervisor::start() {
  const Object& vm = plan_.vm;
  TRY(loop_->on_signals({SIGTERM, SIGINT}, [this](int) { quit(); }));
  TRY(watch_ready_pipe());
  home_ = std::make_unique<DirGuard>(*loop_, vm.dir, [this] { quit(); });
  remove_sockets();  // of a supervisor that was killed
  unlink(vm.path(k_end_file).c_str());
  unlink(vm.path(k_paused_mark).c_str());
  TRY(events_.open(vm));
  struct stat console {};
  if (stat(vm.path(k_console_log).c_str(), &console) == 0)
    console_bytes_ = static_cast<uint64_t>(console.st_size);
  reset_console_bytes_ = console_bytes_;
  events_.add("boot", {{"console_bytes", console_bytes_}});
  TRY(control_.listen(vm.path(k_control_socket)));
  control_.on_abandoned([this](ControlServer::ConnectionId id) { run_abandoned(id); });
  control_.on_ended([this](ControlServer::ConnectionId id) { connection_ended(id); });
  agent_.on_ready([this] { on_agent_ready(); });
  if (plan_.no_agent)
    agent_.not_awaited(
        fmt::format("no guest agent answers in VM '{}', which was booted without "
                    "waiting for one",
                    vm.name));
  if (trusts_agent()) agent_.resume();
  slots_ = plan_.disks;
  nics_.start(plan_.nics, plan_.nic_slots);
  if (plan_.restore) TRY(open_snapshot());
  return start_qemu();
}

Result<> Supervisor::start_qemu() {
  const std::string log_path = plan_.vm.path(k_qemu_log);
  const Fd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!log) return fail_errno("cannot open " + log_path, errno);
  SpawnOptions options;
  options.argv = plan_.argv;
  options.stdout_fd = log.get();
  options.stderr_fd = log.get();
  if (plan_.restore) options.fds.emplace_back(snapshot_state_.get(), k_state_fd);
  const bool mapped = plan_.restore && !plan_.restore->shared;
  TRY_ASSIGN(Fd memory, make_memory());
  if (!mapped) options.fds.emplace_back(memory.get(), k_ram_fd);
  TRY_ASSIGN(qemu_, spawn(options));
  snapshots_.ram().attach(qemu_.pid(), std::move(memory), mapped);
  qemu_id_ = identify(qemu_.pid()).value_or(ProcessId{qemu_.pid(), 0});
  TRY(loop_->watch(qemu_.pidfd(), EPOLLIN, [this](uint32_t) { on_qemu_exit(); }));
  const uint64_t spent_ns = system_clock().now_ns() - plan_.started_ns;
  boot_timer_ = loop_->after(plan_.timeout_ns - std::min(spent_ns, plan_.timeout_ns), [this] {
    boot_failed(Error(Code::boot_timeout,
                      fmt::format("VM '{}' has not booted in {}: {}", plan_.vm.name,
                                  format_duration(plan_.timeout_ns), why_not_booted())));
  });
  connect_qmp();
  return {};
}

// Nobody reads the other end any more when `boot` was killed: then nothing may stay.
Result<> Supervisor::watch_ready_pipe() {
  return loop_->watch(ready_.get(), 0, [this](uint32_t events) {
    if ((events & EPOLLERR) == 0 || phase_ != Phase::booting) return;
    boot_failed(Error(Code::aborted, "boot was interrupted"));
  });
}

// QEMU makes its sockets some milliseconds after it was started; there is no message for that.
void Supervisor::connect_qmp() {
  if (phase_ == Phase::ending) return;
  Fd fd = try_connect(plan_.vm.path(k_own_qmp));
  if (!fd) {
    loop_->after(k_connect_again_ns, [this] { connect_qmp(); });
    return;
  }
  qmp_ = std::make_unique<Qmp>(
      *loop_, std::move(fd),
      Qmp::Handler{[this] { on_qmp_ready(); }, [this](const json& event) { on_event(event); },
                   [](const char*) { /* the pidfd will tell */ }});
  ports_.connect(qmp_.get());
}

void Supervisor::on_qmp_ready() {
  qmp_up_ = true;
  Fd fd = try_connect(plan_.vm.path(k_agent_socket));
  if (!fd) return boot_failed(Error(Code::qmp, "cannot connect to QEMU's agent socket"));
  agent_.connect(std::move(fd));
  if (Fd runner = try_connect(plan_.vm.path(k_runner_socket))) runner_.connect(std::move(runner));
  qmp_->execute("query-cpus-fast", nullptr, k_qmp_ns, [this](Result<json> result) {
    if (!result || !result->is_array()) return;
    for (const json& cpu : *result)
      vcpu_threads_.push_back(static_cast<int>(get_u64(cpu, "thread-id")));
  });
  check_memory();
  if (plan_.restore) return load_snapshot();
  plan_.work.since_ns = system_clock().now_ns();  // QEMU talks once the guest runs
  // A guest that was quicker than we are has opened its port before we could hear of it.
  qmp_->execute("query-chardev", nullptr, k_qmp_ns, [this](Result<json> result) {
    if (!result || !result->is_array()) return;
    for (const json& chardev : *result)
      if (get_string(chardev, "label") == "ga" && get_bool(chardev, "frontend-open"))
        if (phase_ != Phase::ending && !port_opened_) agent_port(true);
  });
  if (plan_.no_agent) booted();
}

// A vhost-user server maps the guest's memory itself. With memory that is QEMU's alone it would see
// nothing of the requests in it, and the guest would hang: so QEMU has been started with its CPUs
// at rest where that matters.
void Supervisor::check_memory() {
  qmp_->execute("query-memdev", nullptr, k_qmp_ns, [this](const Result<json>& result) {
    const auto shared = [](const json& memory) { return get_bool(memory, "share"); };
    shares_memory_ = result && result->is_array() && !result->empty() &&
                     std::all_of(result->begin(), result->end(), shared);
    for (const auto& [slot, disk] : slots_)
      if (disk.vhost_user && !shares_memory_) return boot_failed(private_memory(disk.id));
    if (!has_vhost_user(slots_) || plan_.restore) return;
    qmp_->execute("cont", nullptr, k_qmp_ns, [this](const Result<json>& going) {
      if (!going) boot_failed(going.error());
    });
  });
}

void Supervisor::on_event(const json& event) {
  const std::string name = get_string(event, "event");
  if (phase_ == Phase::booting && !plan_.restore && name == "RESUME") return;
  if (name == "STOP" || name == "RESUME") {
    if (snapshots_.quiet()) return;
    mark_paused(name == "STOP");  // who waits for the event looks at the state next
  }
  if (const auto ours = translate_event(event))
    events_.add(get_string(*ours, "event"), ours->value("data", json()));
  const json* data = find(event, "data");
  const json nothing = json::object();
  if (!data) data = &nothing;
  nics_.on_event(name, *data);
  if (name == "VSERPORT_CHANGE" && get_string(*data, "id") == "agent") {
    agent_port(get_bool(*data, "open"));
  } else if (name == "VSERPORT_CHANGE" && get_string(*data, "id") == "runner") {
    runner_.port_changed(get_bool(*data, "open"));
  } else if (name == "VSERPORT_CHANGE") {
    ports_.port_changed(get_string(*data, "id"), get_bool(*data, "open"));
  } else if (name == "MIGRATION") {
    migration_event(*data);
  } else if (name == "SHUTDOWN") {
    guest_powered_off_ = get_bool(*data, "guest");
  } else if (name == "RESET") {
    guest_reset(get_bool(*data, "guest"));
  } else if (name == "DEVICE_DELETED" || name == "DEVICE_UNPLUG_GUEST_ERROR") {
    const std::string device = get_string(*data, "device");
    for (const auto& [slot, disk] : Slots(slots_)) {
      if (device != device_name(slot)) continue;
      if (name == "DEVICE_DELETED")
        device_deleted(slot);
      else
        device_kept(slot, "the guest refuses to release it");
    }
  }
}

void Supervisor::agent_port(bool open) {
  port_opened_ = port_opened_ || open;
  agent_.port_changed(open);
}

void Supervisor::on_agent_ready() {
  if (phase_ == Phase::running)
    return nics_.on_agent_ready([this](const Result<>&) { agent_is_back(); });
  if (phase_ != Phase::booting || setting_up_) return;
  after_agent();
}

void Supervisor::after_agent() {
  setting_up_ = true;
  if (!plan_.restore || !plan_.restore->frozen) return set_up();
  freezer_.thaw(plan_.timeout_ns, [this](const Result<json>& thawed) {
    if (!thawed) return boot_failed(thawed.error());
    set_up();
  });
}

void Supervisor::set_up() {
  setup_.start(std::move(plan_.work), plan_.timeout_ns, [this](Result<> result) {
    if (!result) return boot_failed(result.error());
    if (plan_.restore) return booted();  // its cards are set up already
    nics_.bring_up(plan_.timeout_ns, [this](const Result<>& up) {
      if (!up) return boot_failed(up.error());
      booted();
    });
  });
}

// For a person who waits for a guest that was never made to be waited for.
std::string Supervisor::why_not_booted() const {
  if (!qmp_up_ && has_vhost_user(slots_))
    return "QEMU does not answer, perhaps because the server of a vhost-user disk does not";
  if (!qmp_up_) return "QEMU does not answer";
  if (setting_up_) return "setting its clock or writing its files takes too long";
  std::string why = port_opened_ ? "its guest agent has opened its port and does not answer"
                                 : "no guest agent has started in it (qemu-guest-agent, on the "
                                   "port org.qemu.guest_agent.0; --no-agent boots without)";
  const std::string console = plan_.vm.path(k_console_log);
  struct stat st {};
  if (stat(console.c_str(), &st) < 0 || static_cast<uint64_t>(st.st_size) <= console_bytes_)
    why += "; and it has written nothing to its serial console (console=ttyS0)";
  else if (tail_of_file(console, k_console_tail_bytes).find("Kernel panic") != std::string::npos)
    why += "; its kernel has panicked";
  return why;
}

void Supervisor::booted() {
  if (phase_ != Phase::booting) return;
  if (auto saved = save_booted(); !saved) return boot_failed(saved.error());
  phase_ = Phase::running;
  loop_->cancel(boot_timer_);
  events_.add("vm_spawned", {{"boot_ms", plan_.state["boot_ms"]}});
  lock_.reset();
  report({{"boot_ms", plan_.state["boot_ms"]}});
  be_small_when_idle();
}

Result<> Supervisor::save_booted() {
  const uint64_t now_ns = system_clock().now_ns();
  json& state = plan_.state;
  state["state"] = "booted";
  state["qemu"] = process_to_json(qemu_id_);
  state["supervisor"] = process_to_json(identify(getpid()).value_or(ProcessId{getpid(), 0}));
  state["booted_ns"] = now_ns;
  state["boot_ms"] = static_cast<double>((now_ns - plan_.started_ns) / 1000) / 1000;
  return plan_.vm.save(state);
}

void Supervisor::report(const json& message) {
  if (!ready_) return;
  static_cast<void>(write_all(ready_.get(), to_line(message)));
  loop_->unwatch(ready_.get());
  ready_.reset();
}

// There are many of us, and most of what a request takes is not needed until the next.
void Supervisor::be_small_when_idle() {
  loop_->cancel(idle_timer_);
  idle_timer_ = loop_->after(k_idle_ns, forget_clean_pages);
}

}  // namespace pv::vm
