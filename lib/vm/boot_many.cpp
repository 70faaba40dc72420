// SPDX-License-Identifier: MIT
#include "vm/boot_many.hpp"

#include <csignal>
#include <poll.h>
#include <set>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/text.hpp"
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
constexpr uint64_t k_look_ns = 5 * k_ns_per_ms;
constexpr size_t k_max_report = 64 << 20;

struct Worker {
  size_t job = 0;
  pid_t pid = 0;
  Fd report;
  std::string text;
};

// The worker's whole life.
[[noreturn]] void work(const BootMany& batch, size_t job, int report, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const BootMany::Job& mine = batch.jobs[job];
  const auto vm = boot_vm(mine.run, mine.vm, batch.options, batch.timeout_ns);
  const json message = vm ? json({{"vm", *vm}}) : json({{"error", error_to_json(vm.error())}});
  _exit(write_all(report, to_line(message)) ? 0 : 1);
}

Result<Worker> start_worker(const BootMany& batch, size_t job) {
  int pipe[2];
  if (pipe2(pipe, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd in(pipe[0]), out(pipe[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return fail_errno("fork", errno);
  if (pid == 0) work(batch, job, out.get(), parent);
  return Worker{job, pid, std::move(in), ""};
}

Result<json> result_of(const Worker& worker, const Object& vm) {
  const auto message = parse_json(worker.text);
  if (!message)
    return fail(Code::bug, fmt::format("VM '{}': the process that boots it has ended", vm.name));
  if (const json* error = find(*message, "error")) return fail(error_from_json(*error));
  return (*message)["vm"];
}

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
    while (next_ < batch_.jobs.size() || !workers_.empty()) {
      while (workers_.size() < batch_.parallel && next_ < batch_.jobs.size() && !failed_) start();
      if (failed_ && batch_.atomic) return roll_back();
      if (!workers_.empty()) wait();
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
    auto worker = start_worker(batch_, job);
    if (worker)
      workers_.push_back(std::move(*worker));
    else
      finished(job, fail(worker.error()));
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

  void wait() {
    std::vector<pollfd> waits;
    for (const Worker& worker : workers_) waits.push_back({worker.report.get(), POLLIN, 0});
    waits.push_back({signals_.get(), POLLIN, 0});
    if (poll(waits.data(), waits.size(), -1) <= 0) return;
    if (waits.back().revents != 0) failed_ = true;
    for (size_t i = workers_.size(); i-- > 0;)
      if (waits[i].revents != 0) receive(i);
  }

  void receive(size_t index) {
    Worker& worker = workers_[index];
    char buffer[65536];
    const ssize_t n = read(worker.report.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) return;
    if (n > 0 && worker.text.size() < k_max_report) {
      worker.text.append(buffer, static_cast<size_t>(n));
      return;
    }
    waitpid(worker.pid, nullptr, 0);
    const Worker ended = std::move(worker);
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(index));
    finished(ended.job, result_of(ended, batch_.jobs[ended.job].vm));
  }

  // A supervisor that has lost the process it reports to ends, and takes its sockets away last.
  void stop_workers() {
    for (const Worker& worker : workers_) {
      kill(worker.pid, SIGKILL);
      waitpid(worker.pid, nullptr, 0);
    }
    const Deadline deadline = Deadline::in_ns(k_gone_ns);
    for (const Worker& worker : std::exchange(workers_, {})) {
      const std::string socket = batch_.jobs[worker.job].vm.path(k_control_socket);
      while (access(socket.c_str(), F_OK) == 0 && !deadline.passed()) sleep_ns(k_look_ns);
      booted_[worker.job] = json();  // it may have booted just now
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
  std::vector<Worker> workers_;
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
