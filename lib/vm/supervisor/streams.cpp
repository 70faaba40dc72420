// SPDX-License-Identifier: MIT
// Commands in the guest, with captured output (`run`) or over data ports that the client has
// leased before (`stream_open`, then `run` with "lease").
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_lease_ns = 30 * k_ns_per_s;
// What receives a file tidies up by itself when its sender has gone away.
constexpr uint64_t k_tidy_ns = 5 * k_ns_per_s;

}  // namespace

void Supervisor::op_stream_open(ControlServer::ConnectionId id, const json& request,
                                const Reply& reply) {
  const pid_t pid = control_.peer(id);
  ports_.lease(id, get_u64(request, "ports", 1), k_lease_ns,
               [this, id, pid, request, reply](Result<json> result) {
                 if (control_.peer(id) == 0) return ports_.end(id);  // it has gone away meanwhile
                 if (result) holders_.add(id, pid, request);
                 reply(std::move(result));
               });
}

void Supervisor::start_run(ControlServer::ConnectionId id, GuestCommand command,
                           const Reply& reply) {
  const bool streams = command.streams;
  const uint64_t timeout_ns = command.timeout_ns;
  const uint64_t started_ns = system_clock().now_ns();
  const auto done = [this, id, streams, timeout_ns, started_ns, reply](Result<json> result) {
    run_of_.erase(id);
    if (streams)
      ports_.free(id);
    else
      holders_.remove(id);
    if (!result) return reply(fail(result.error()));
    const json status = {{"status", std::move(*result)}};
    if (!streams) return reply(status);
    // Processes that it has left behind may have its streams open: then it lasts as long as they.
    const uint64_t spent_ns = system_clock().now_ns() - started_ns;
    const TimerId timer = loop_->after(timeout_ns - std::min(spent_ns, timeout_ns), [reply] {
      reply(fail(Code::timeout,
                 "the command has ended, but a process that it has left behind "
                 "still has its output open"));
    });
    drain_timers_[id] = timer;
    ports_.drain(id, [this, id, timer, reply, status] {
      loop_->cancel(timer);
      drain_timers_.erase(id);
      reply(status);
    });
  };
  // Registered first: a command that fails at once calls done() from inside start().
  run_of_[id] = 0;
  const GuestRuns::Id run = runs_.start(std::move(command), done);
  if (const auto found = run_of_.find(id); found != run_of_.end()) found->second = run;
  if (streams && run_of_.count(id) != 0) ports_.watch(id, [this, run] { runs_.ask_now(run); });
}

void Supervisor::run_abandoned(ControlServer::ConnectionId id) {
  const auto found = run_of_.find(id);
  if (found == run_of_.end()) return;
  const GuestRuns::Id run = found->second;
  run_of_.erase(found);
  const Holder* holder = holders_.find(id);
  runs_.abandon(run, holder && holder->kind == "put" ? k_tidy_ns : 0,
                [this, id] { ports_.free(id); });
}

void Supervisor::connection_ended(ControlServer::ConnectionId id) {
  if (const auto found = drain_timers_.find(id); found != drain_timers_.end()) {
    loop_->cancel(found->second);
    drain_timers_.erase(found);
  }
  holders_.remove(id);
  ports_.end(id);
  snapshots_.ended(id);
  freezer_.ended(id);
}

}  // namespace pv::vm
