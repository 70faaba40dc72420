// SPDX-License-Identifier: MIT
// What the supervisor does when the guest is to stop, go on, start anew or end.
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_console_look = 64 << 10;
constexpr int k_max_resets = 3;  // of its own, one after the other
// SeaBIOS asks for a reset in all the ways that there are, until one has come: what follows within
// so long is still the same.
constexpr uint64_t k_burst_ns = k_ns_per_s;

}  // namespace

// The event comes before QEMU's answer, so the mark is right when a command gets its reply.
void Supervisor::mark_paused(bool paused) {
  const std::string mark = plan_.vm.path(k_paused_mark);
  if (paused)
    static_cast<void>(write_file_atomic(mark, ""));
  else
    unlink(mark.c_str());
}

void Supervisor::op_pause(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  qmp_->execute("stop", nullptr, timeout_of(request), [this, reply](const Result<json>& result) {
    if (!result) return reply(fail(result.error()));
    if (access(plan_.vm.path(k_paused_mark).c_str(), F_OK) == 0) return reply(json::object());
    reply(fail(Code::system, "the VM is stopped, but that cannot be written down"));
  });
}

void Supervisor::op_resume(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  qmp_->execute("cont", nullptr, timeout_of(request), [reply](const Result<json>& result) {
    if (!result) return reply(fail(result.error()));
    reply(json::object());
  });
}

// Answered when the agent of the new boot is there.
void Supervisor::op_reset(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  if (reset_.reply) return reply(fail(Code::wrong_state, "it is being reset already"));
  reset_.started_ns = system_clock().now_ns();
  reset_.reply = reply;
  reset_.timer = loop_->after(timeout_of(request), [this] {
    end_reset(fail(Error(Code::boot_timeout,
                         fmt::format("VM '{}': its guest agent has not answered since the reset",
                                     plan_.vm.name))
                       .with("console", console_tail())));
  });
  qmp_->execute("system_reset", nullptr, timeout_of(request), [this](const Result<json>& result) {
    if (!result) end_reset(fail(result.error()));
  });
}

void Supervisor::end_reset(Result<json> result) {
  if (!reset_.reply) return;
  loop_->cancel(reset_.timer);
  const Reply reply = *std::exchange(reset_.reply, std::nullopt);
  reset_.seen = false;
  reply(std::move(result));
}

// Each boot of the guest begins here, whoever asked for it.
// SeaBIOS makes hard ones out of a warm one until its memory is fresh, which can take twenty on a
// host with much to do; and a distribution may reset itself when it boots for the first time. So
// only a panic or one too many is a failure.
void Supervisor::guest_reset(bool by_guest) {
  const std::string printed = console_since_reset();
  const std::string panic = by_guest ? panic_in(printed) : "";
  const uint64_t now_ns = system_clock().now_ns();
  const bool same = by_guest && printed.empty() && now_ns - last_reset_ns_ < k_burst_ns;
  last_reset_ns_ = now_ns;
  if (!same) events_.add("reset", {{"by", by_guest ? "guest" : "host"}});
  if (!panic.empty()) events_.add("guest_panic", {{"message", panic}});
  const std::string why = panic.empty() ? "the guest resets itself again and again" : panic;
  resets_ = by_guest ? resets_ + (same ? 0 : 1) : 0;
  const bool failed = !panic.empty() || resets_ > k_max_resets;
  if (phase_ == Phase::booting && failed)
    return boot_failed(
        Error(Code::guest_died, fmt::format("VM '{}', while booting: {}", plan_.vm.name, why)));
  if (phase_ == Phase::running)
    runs_.fail_all(
        Error(Code::agent, fmt::format("VM '{}': the guest was reset meanwhile{}", plan_.vm.name,
                                       panic.empty() ? "" : ": " + panic)));
  if (!reset_.reply) return;
  if (failed)
    return end_reset(fail(
        Error(Code::guest_died, fmt::format("VM '{}', after the reset: {}", plan_.vm.name, why))
            .with("console", console_tail())));
  reset_.seen = true;
  if (plan_.no_agent && !port_opened_) agent_is_back();  // it will never say so
}

// What the guest has printed since it last began, and from now on begins anew.
std::string Supervisor::console_since_reset() {
  const std::string log = plan_.vm.path(k_console_log);
  struct stat st {};
  const uint64_t size = stat(log.c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
  const uint64_t fresh = size - std::min(size, reset_console_bytes_);
  reset_console_bytes_ = size;
  return tail_of_file(log, std::min<uint64_t>(fresh, k_console_look));
}

void Supervisor::agent_is_back() {
  resets_ = 0;
  if (!reset_.seen) return;
  const uint64_t ns = system_clock().now_ns() - reset_.started_ns;
  end_reset(json({{"reset_ms", static_cast<double>(ns / 1000) / 1000}}));
}

void Supervisor::op_power_button(ControlServer::ConnectionId, const json& request,
                                 const Reply& reply) {
  const TimerId timer = loop_->after(timeout_of(request), [this] {
    for (const PowerOff& each : std::exchange(power_offs_, {})) {
      loop_->cancel(each.timer);
      each.reply(fail(
          Code::timeout,
          fmt::format("VM '{}': the guest has not shut down in time; it goes on", plan_.vm.name)));
    }
  });
  power_offs_.push_back({timer, reply});
  qmp_->execute("system_powerdown", nullptr, timeout_of(request), [](const Result<json>&) {});
}

// QEMU has ended: whoever waits for the guest to do something is told how.
void Supervisor::answer_all(const json& end, const Error& error) {
  end_reset(fail(error));
  const bool graceful = get_string(end, "state") == "shutdown" && guest_powered_off_;
  for (const PowerOff& each : std::exchange(power_offs_, {})) {
    loop_->cancel(each.timer);
    if (graceful)
      each.reply(json({{"reason", end["reason"]}}));
    else
      each.reply(fail(error));
  }
}

std::string Supervisor::console_tail() const {
  return tail_of_file(plan_.vm.path(k_console_log), k_console_tail_bytes);
}

}  // namespace pv::vm
