// SPDX-License-Identifier: MIT
// What `boot` and a restore do inside the guest once its agent answers and before anybody else may:
// the clock is set to the nanosecond, a guest that booted from a disk gets its files, a restored
// one an identity of its own. Owned by the supervisor, on its thread.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "base/result.hpp"
#include "guest/key.hpp"
#include "vm/supervisor/agent.hpp"
#include "vm/supervisor/guest_run.hpp"

namespace pv::vm {

struct GuestWork {
  std::optional<uint64_t> initial_time_ns;  // what the clock showed at the time `since_ns`
  uint64_t since_ns = 0;                    // monotonic
  std::vector<guest::UserFile> files;
  bool reseed = false;
  std::string host_name;  // with `reseed`
};

class GuestSetup {
 public:
  GuestSetup(Agent& agent, GuestRuns& runs) : agent_(agent), runs_(runs) {}

  // Calls `done` once, with the first thing that went wrong.
  void start(GuestWork work, uint64_t timeout_ns, std::function<void(Result<>)> done);

 private:
  uint64_t clock_now() const;
  void set_clock();
  void set_clock_by_date(const Error& first);
  void next_piece();
  void reseed();
  void wrote(const Result<json>& status);
  void finish(const Result<>& result);

  Agent& agent_;
  GuestRuns& runs_;
  GuestWork work_;
  uint64_t timeout_ns_ = 0;
  size_t file_ = 0;    // the one that is being written
  size_t offset_ = 0;  // how much of it the guest has
  std::function<void(Result<>)> done_;
};

}  // namespace pv::vm
