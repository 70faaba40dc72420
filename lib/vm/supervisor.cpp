// SPDX-License-Identifier: MIT
#include "vm/supervisor.hpp"

#include <csignal>
#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_connect_again_ns = 2 * k_ns_per_ms;
constexpr uint64_t k_qmp_ns = 30 * k_ns_per_s;
constexpr uint64_t k_quit_grace_ns = 2 * k_ns_per_s;
constexpr uint64_t k_max_events_bytes = 64 << 20;
constexpr size_t k_stderr_tail = 4096;
constexpr int k_large_block = 128 << 10;

// The end of what QEMU has written to stderr.
std::string last_words(const std::string& log) {
  std::string text = tail_of_file(log, k_stderr_tail);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

}  // namespace

Supervisor::Supervisor(BootPlan plan, Fd ready, std::unique_ptr<Loop> loop)
    : plan_(std::move(plan)),
      ready_(std::move(ready)),
      loop_(std::move(loop)),
      agent_(*loop_),
      runs_(*loop_, agent_),
      control_(*loop_,
               [this](ControlServer::ConnectionId id, const json& request, const std::string&,
                      const Reply& reply) { on_request(id, request, reply); }) {}

int Supervisor::run(BootPlan plan, Fd ready) {
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
  Supervisor self(std::move(plan), std::move(ready), std::move(*loop));
  if (auto started = self.start(); !started) return refuse(self.ready_, started.error());
  if (auto ran = self.loop_->run(); !ran) return exit_class(ran.error().code);
  self.flush_replies();
  return 0;
}

Result<> Supervisor::start() {
  const Object& vm = plan_.vm;
  TRY(loop_->on_signals({SIGTERM, SIGINT}, [this](int) { quit(); }));
  TRY(watch_ready_pipe());
  home_ = std::make_unique<DirWatch>(*loop_, vm.dir, [this] { quit(); });
  remove_sockets();  // of a supervisor that was killed
  unlink(vm.path(k_end_file).c_str());
  events_log_.reset(
      open(vm.path(k_events_log).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!events_log_) return fail_errno("cannot open " + vm.path(k_events_log), errno);
  const Fd log(
      open(vm.path(k_qemu_log).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!log) return fail_errno("cannot open " + vm.path(k_qemu_log), errno);
  TRY(control_.listen(vm.path(k_control_socket)));
  control_.on_abandoned([this](ControlServer::ConnectionId id) {
    const auto found = run_of_.find(id);
    if (found == run_of_.end()) return;
    const GuestRuns::Id run = found->second;
    run_of_.erase(found);
    runs_.abandon(run);
  });
  agent_.on_ready([this] { on_agent_ready(); });
  for (size_t slot = 0; slot < plan_.disks.size(); ++slot) slots_[slot] = plan_.disks[slot];
  SpawnOptions options;
  options.argv = plan_.argv;
  options.stdout_fd = log.get();
  options.stderr_fd = log.get();
  TRY_ASSIGN(qemu_, spawn(options));
  qemu_id_ = identify(qemu_.pid()).value_or(ProcessId{qemu_.pid(), 0});
  TRY(loop_->watch(qemu_.pidfd(), EPOLLIN, [this](uint32_t) { on_qemu_exit(); }));
  const uint64_t spent_ns = system_clock().now_ns() - plan_.started_ns;
  boot_timer_ = loop_->after(plan_.timeout_ns - std::min(spent_ns, plan_.timeout_ns), [this] {
    boot_failed(Error(
        Code::boot_timeout,
        fmt::format("VM '{}' has not booted in {}{}", plan_.vm.name,
                    format_duration(plan_.timeout_ns),
                    qmp_up_ ? ": its guest agent does not answer" : ": QEMU does not answer")));
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
}

void Supervisor::on_qmp_ready() {
  qmp_up_ = true;
  Fd fd = try_connect(plan_.vm.path(k_agent_socket));
  if (!fd) return boot_failed(Error(Code::qmp, "cannot connect to QEMU's agent socket"));
  agent_.connect(std::move(fd));
  // A guest that was quicker than we are has opened its port before we could hear of it.
  qmp_->execute("query-chardev", nullptr, k_qmp_ns, [this](Result<json> result) {
    if (!result || !result->is_array()) return;
    for (const json& chardev : *result)
      if (get_string(chardev, "label") == "ga" && get_bool(chardev, "frontend-open"))
        if (phase_ == Phase::booting && !agent_.is_ready()) agent_.port_changed(true);
  });
}

void Supervisor::log_event(const json& event) {
  json line = {{"event", get_string(event, "event")},
               {"t_ns", std::to_string(system_clock().wall_ns())}};
  if (const json* data = find(event, "data")) line["data"] = *data;
  const std::string text = to_line(line) + "\n";
  events_bytes_ += text.size();
  if (events_bytes_ <= k_max_events_bytes) static_cast<void>(write_all(events_log_.get(), text));
}

void Supervisor::on_event(const json& event) {
  log_event(event);
  const std::string name = get_string(event, "event");
  const json* data = find(event, "data");
  const json nothing = json::object();
  if (!data) data = &nothing;
  if (name == "VSERPORT_CHANGE" && get_string(*data, "id") == "agent") {
    agent_.port_changed(get_bool(*data, "open"));
  } else if (name == "SHUTDOWN") {
    guest_powered_off_ = get_bool(*data, "guest");
  } else if (name == "RESET" && get_bool(*data, "guest") && phase_ == Phase::booting) {
    boot_failed(Error(Code::guest_died,
                      fmt::format("VM '{}': the guest reset itself while booting (a kernel panic?)",
                                  plan_.vm.name)));
  } else if (name == "DEVICE_DELETED" || name == "DEVICE_UNPLUG_GUEST_ERROR") {
    const std::string device = get_string(*data, "device");
    for (const auto& [slot, id] : std::map(slots_)) {
      if (device != device_name(slot)) continue;
      if (name == "DEVICE_DELETED")
        device_deleted(slot);
      else
        device_kept(slot, "the guest refuses to release it");
    }
  }
}

void Supervisor::on_agent_ready() {
  if (phase_ != Phase::booting) return;
  if (auto saved = save_booted(); !saved) return boot_failed(saved.error());
  phase_ = Phase::running;
  loop_->cancel(boot_timer_);
  report({{"boot_ms", plan_.state["boot_ms"]}});
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

void Supervisor::boot_failed(Error error) {
  if (phase_ != Phase::booting) return;
  phase_ = Phase::ending;
  const std::string stderr_text = last_words(plan_.vm.path(k_qemu_log));
  error = error.with("console", tail_of_file(plan_.vm.path(k_console_log), k_console_tail_bytes));
  if (!stderr_text.empty()) error = error.with("stderr", stderr_text);
  qemu_.kill(SIGKILL);
  loop_->unwatch(qemu_.pidfd());
  constexpr uint64_t k_reap_ms = 10'000;
  static_cast<void>(qemu_.wait(Deadline::in_ms(k_reap_ms)));  // reported only when nothing is left
  remove_sockets();
  report({{"error", error_to_json(error)}});
  loop_->stop();
}

void Supervisor::quit() {
  if (phase_ == Phase::booting) return boot_failed(Error(Code::aborted, "boot was interrupted"));
  if (quit_asked_) return;
  quit_asked_ = true;
  phase_ = Phase::ending;
  if (qmp_) qmp_->execute("quit", nullptr, k_quit_grace_ns, [](Result<json>) {});
  quit_timer_ = loop_->after(k_quit_grace_ns, [this] {
    forced_ = true;
    qemu_.kill(SIGKILL);
  });
}

// Never by way of QMP: `quit` and `stop` both flush the disks.
void Supervisor::cut_power() {
  power_cut_ = true;
  phase_ = Phase::ending;
  qemu_.kill(SIGKILL);
}

json Supervisor::end_record(const ExitStatus& status) const {
  const bool orderly = status.signal == 0 && status.code == 0;
  const bool wanted = power_cut_ || (orderly && (guest_powered_off_ || quit_asked_));
  json end = {{"state", wanted ? "shutdown" : "dead"}};
  if (power_cut_)
    end["reason"] = "its power was cut";
  else if (quit_asked_)
    end["reason"] = "it was closed";
  else if (orderly && guest_powered_off_)
    end["reason"] = "the guest powered off";
  else
    end["reason"] = fmt::format("QEMU ended: {}", status.describe());
  if (status.signal != 0)
    end["signal"] = status.signal;
  else
    end["exit_status"] = status.code;
  set_text(end, "stderr", last_words(plan_.vm.path(k_qemu_log)));
  set_text(end, "console_tail", tail_of_file(plan_.vm.path(k_console_log), k_console_tail_bytes));
  return end;
}

void Supervisor::on_qemu_exit() {
  loop_->unwatch(qemu_.pidfd());
  const auto status = qemu_.wait(Deadline::in_ms(0)).value_or(ExitStatus{-1, 0});
  // What QEMU wrote last may still be in the QMP socket: "the guest powered off" is in there.
  for (int round = 0; round < 16; ++round) static_cast<void>(loop_->run_once(0));
  if (phase_ == Phase::booting) {
    const std::string stderr_text = last_words(plan_.vm.path(k_qemu_log));
    const std::string what = !qmp_up_             ? "QEMU refuses to start"
                             : guest_powered_off_ ? "the guest powered off while booting"
                                                  : "QEMU ended while the guest was booting";
    return boot_failed(Error(Code::guest_died,
                             fmt::format("VM '{}': {}: {}", plan_.vm.name, what,
                                         stderr_text.empty() ? status.describe() : stderr_text)));
  }
  phase_ = Phase::ending;
  const json end = end_record(status);
  remove_sockets();
  // Fails when the VM's directory is gone, and then nobody will look for it.
  static_cast<void>(write_file_atomic(plan_.vm.path(k_end_file), to_line(end) + "\n"));
  log_event({{"event", "vm_ended"}, {"data", end}});
  Error error(Code::guest_died,
              fmt::format("VM '{}' ended meanwhile: {}", plan_.vm.name, get_string(end, "reason")));
  error = error.with("console", end["console_tail"]);
  agent_.fail_all(error);
  if (qmp_) qmp_->fail_all(error);
  for (auto& [slot, unplug] : std::exchange(unplugs_, {}))
    for (const Reply& reply : unplug.replies) reply(fail(error));
  runs_.fail_all(error);
  json quit_result = {{"forced", forced_}, {"reason", end["reason"]}};
  for (const Reply& reply : quit_replies_) reply(quit_result);
  loop_->stop();
}

void Supervisor::remove_sockets() {
  for (const char* name :
       {k_control_socket, k_own_qmp, k_user_qmp, k_agent_socket, k_console_socket})
    unlink(plan_.vm.path(name).c_str());
}

void Supervisor::flush_replies() {
  const Deadline deadline = Deadline::in_ms(1000);
  while (control_.has_unsent() && !deadline.passed())
    if (!loop_->run_once(deadline.left_ms())) return;
}

}  // namespace pv::vm
