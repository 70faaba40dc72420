// SPDX-License-Identifier: MIT
// How a VM ends: asked to, by force, by itself; and what is said of it then.
#include <csignal>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_quit_grace_ns = 5 * k_ns_per_s;  // however loaded the host is
constexpr size_t k_stderr_tail = 4096;

// The end of what QEMU has written to stderr.
std::string qemus_words(const std::string& log) {
  std::string text = tail_of_file(log, k_stderr_tail);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

}  // namespace

void Supervisor::boot_failed(Error error) {
  if (phase_ != Phase::booting) return;
  phase_ = Phase::ending;
  boot_failed_ = true;
  const std::string stderr_text = qemus_words(plan_.vm.path(k_qemu_log));
  error = error.with("console", tail_of_file(plan_.vm.path(k_console_log), k_console_tail_bytes));
  if (!stderr_text.empty()) error = error.with("stderr", stderr_text);
  qemu_.kill(SIGKILL);
  loop_->unwatch(qemu_.pidfd());
  constexpr uint64_t k_reap_ms = 10'000;
  static_cast<void>(qemu_.wait(Deadline::in_ms(k_reap_ms)));  // reported only when nothing is left
  remove_sockets();
  events_.add("boot_failed", {{"message", error.message}});
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
  const bool wanted = power_cut_ || quit_asked_ || (orderly && guest_powered_off_);
  json end = {{"state", wanted ? "shutdown" : "dead"}};
  if (power_cut_)
    end["reason"] = "its power was cut";
  else if (quit_asked_)
    end["reason"] = quit_reason_;
  else if (orderly && guest_powered_off_)
    end["reason"] = "the guest powered off";
  else
    end["reason"] = fmt::format("QEMU ended: {}", status.describe());
  if (status.signal != 0)
    end["signal"] = status.signal;
  else
    end["exit_status"] = status.code;
  set_text(end, "stderr", qemus_words(plan_.vm.path(k_qemu_log)));
  set_text(end, "console_tail", tail_of_file(plan_.vm.path(k_console_log), k_console_tail_bytes));
  return end;
}

void Supervisor::on_qemu_exit() {
  loop_->unwatch(qemu_.pidfd());
  const auto status = qemu_.wait(Deadline::in_ms(0)).value_or(ExitStatus{-1, 0});
  // What QEMU wrote last may still be in the QMP socket: "the guest powered off" is in there.
  for (int round = 0; round < 16; ++round) static_cast<void>(loop_->run_once(0));
  if (boot_failed_) return;  // its time was over in one of these rounds
  if (phase_ == Phase::booting) {
    const std::string stderr_text = qemus_words(plan_.vm.path(k_qemu_log));
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
  json how = end;
  how.erase("console_tail");
  events_.add("vm_ended", how);
  Error error(Code::guest_died,
              fmt::format("VM '{}' ended meanwhile: {}", plan_.vm.name, get_string(end, "reason")));
  error = error.with("console", end["console_tail"]);
  answer_all(end, error);
  agent_.fail_all(error);
  if (qmp_) qmp_->fail_all(error);
  for (auto& [slot, unplug] : std::exchange(unplugs_, {}))
    for (const Reply& reply : unplug.replies) reply(fail(error));
  runs_.fail_all(error);
  nics_.fail_all(error);
  json quit_result = {{"forced", forced_}, {"reason", end["reason"]}};
  for (const Reply& reply : quit_replies_) reply(quit_result);
  loop_->stop();
}

void Supervisor::remove_sockets() {
  for (const char* name :
       {k_control_socket, k_own_qmp, k_user_qmp, k_agent_socket, k_runner_socket, k_console_socket})
    unlink(plan_.vm.path(name).c_str());
  ports_.remove_sockets();
}

void Supervisor::flush_replies() {
  const Deadline deadline = Deadline::in_ms(1000);
  while (control_.has_unsent() && !deadline.passed())
    if (!loop_->run_once(deadline.left_ms())) return;
}

}  // namespace pv::vm
