// SPDX-License-Identifier: MIT
#include "vm/boot_many.hpp"

#include <algorithm>
#include <csignal>
#include <map>
#include <poll.h>
#include <set>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <thread>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/workers.hpp"
#include "vm/boot.hpp"
#include "vm/life.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// A boot takes 2 to 4 s under TCG on an idle machine, and 16 at once on two busy processors 50 s.
constexpr uint64_t k_boot_ns = 60 * k_ns_per_s;
constexpr uint64_t k_share_ns = 15 * k_ns_per_s;  // more for each further VM on one processor
constexpr size_t k_max_share = 64;
constexpr uint64_t k_gone_ns = 15 * k_ns_per_s;  // for a supervisor that nobody waits for
constexpr uint64_t k_boot_many_look_ns = 5 * k_ns_per_ms;

// What a VM was before a boot, so that it can be that again.
Result<json> state_before(const BootMany::Job& job) {
  TRY_ASSIGN(json state, job.vm.load());
  TRY(require_state(job.vm, state, "boot", {"created", "shutdown"}));
  forget_boot(state, actual_state(job.vm, state));
  return state;
}

Result<> unboot(const Object& vm, const json& before) {
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, Deadline::in_ns(k_gone_ns)));
  TRY_ASSIGN(const json now, vm.load());
  TRY(end_processes(vm, now, "not all could be booted"));
  unlink(vm.path(k_end_file).c_str());
  return vm.save(before);
}

class Batch {
 public:
  Batch(const BootMany& batch, const std::function<void(size_t, Result<json>)>& done)
      : batch_(batch), done_(done) {}

  void run() {
    if (batch_.atomic && !prepare()) return;
    const auto done = [this](size_t job, Result<json> vm) { finished(job, std::move(vm)); };
    while (next_ < batch_.jobs.size() || workers_.count() > 0) {
      while (workers_.count() < batch_.parallel && next_ < batch_.jobs.size() && !failed_) start();
      if (failed_ && batch_.atomic) return roll_back();
      if (workers_.count() > 0 && !workers_.wait(done, signals_.get())) failed_ = true;
    }
    for (auto& [job, vm] : booted_) done_(job, std::move(vm));
  }

 private:
  // Nothing starts unless all can.
  bool prepare() {
    std::set<std::string> seen;
    std::vector<std::optional<Error>> wrong(batch_.jobs.size());
    bool any = false;
    for (size_t job = 0; job < batch_.jobs.size(); ++job) {
      const Object& vm = batch_.jobs[job].vm;
      auto before = state_before(batch_.jobs[job]);
      if (!before)
        wrong[job] = before.error();
      else if (!seen.insert(vm.dir).second)
        wrong[job] = Error(Code::usage, fmt::format("VM '{}' is named twice", vm.name));
      else
        before_[job] = std::move(*before);
      any = any || wrong[job];
    }
    for (size_t job = 0; any && job < wrong.size(); ++job)
      done_(job, fail(wrong[job] ? *wrong[job] : not_started(job)));
    if (any) return false;
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    return true;
  }

  Error not_started(size_t job) const {
    return Error(Code::aborted, fmt::format("VM '{}' stays as it was: not all could be booted",
                                            batch_.jobs[job].vm.name));
  }

  void start() {
    const size_t job = next_++;
    const auto started = workers_.start(job, [this, job] {
      const BootMany::Job& mine = batch_.jobs[job];
      return boot_vm(mine.run, mine.vm, batch_.options, batch_.timeout_ns);
    });
    if (!started) finished(job, fail(started.error()));
  }

  void finished(size_t job, Result<json> vm) {
    if (!batch_.atomic) return done_(job, std::move(vm));
    if (vm) {
      booted_[job] = std::move(*vm);
    } else {
      errors_[job] = vm.error();
      failed_ = true;
    }
  }

  // A supervisor that has lost the process it reports to ends, and takes its sockets away last.
  void stop_workers() {
    const std::vector<size_t> jobs = workers_.kill();
    const Deadline deadline = Deadline::in_ns(k_gone_ns);
    for (const size_t job : jobs) {
      const std::string socket = batch_.jobs[job].vm.path(k_control_socket);
      while (access(socket.c_str(), F_OK) == 0 && !deadline.passed()) sleep_ns(k_boot_many_look_ns);
      booted_[job] = json();  // it may have booted just now
    }
  }

  void roll_back() {
    stop_workers();
    for (const auto& [job, vm] : booted_)
      if (auto undone = unboot(batch_.jobs[job].vm, before_[job]); !undone)
        errors_[job] = undone.error();
    for (size_t job = 0; job < batch_.jobs.size(); ++job) {
      const auto error = errors_.find(job);
      done_(job, fail(error == errors_.end() ? not_started(job) : error->second));
    }
  }

  const BootMany& batch_;
  const std::function<void(size_t, Result<json>)>& done_;
  size_t next_ = 0;
  bool failed_ = false;
  Workers workers_;
  std::map<size_t, json> before_;
  std::map<size_t, json> booted_;
  std::map<size_t, Error> errors_;
  Fd signals_;
};

}  // namespace

uint64_t default_boot_ns(const RunDir& run, size_t parallel) {
  const size_t processors = std::max(1U, std::thread::hardware_concurrency());
  const size_t there = std::min(run.list("vm", /*all_scopes=*/true).size(), k_max_share);
  return k_boot_ns + std::max(parallel, there) / processors * k_share_ns;
}

void boot_many(const BootMany& batch, const std::function<void(size_t job, Result<json>)>& done) {
  Batch(batch, done).run();
}

}  // namespace pv::vm
