// SPDX-License-Identifier: MIT
// The runs of a sweep, several at a time, told in the order of k. The sweep ends at the smallest k
// at which the fault did not happen; runs beyond it are ended and never told.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "cli/command.hpp"
#include "sweep_run.hpp"

namespace pv::faultcmd {

struct SweepBounds {
  uint64_t from = 1;  // first k
  uint64_t max = 0;   // so many runs at most
  uint64_t jobs = 1;  // so many at a time
};

class Sweep {
 public:
  Sweep(cli::Context& context, Loop& loop, const SweepPlan& plan, const SweepBounds& bounds);

  // Runs to the end. The exit code: 0, or 1 when an outcome is bad. After a signal it is 0, and
  // signal() says which.
  Result<int> run();
  int signal() const { return signal_; }

 private:
  bool may_start() const;
  void start_some();
  void on_report(uint64_t k, Result<SweepReport> report);
  void end_runs_behind();
  void tell_in_order();
  Result<> tell(const SweepReport& report);
  Result<> summarise();
  void stop(Result<> result);

  cli::Context& context_;
  Loop& loop_;
  const SweepPlan& plan_;
  const SweepBounds bounds_;
  std::map<uint64_t, std::unique_ptr<SweepRun>> runs_;
  std::map<uint64_t, Result<SweepReport>> reports_;  // not told yet
  uint64_t next_;                                    // to start
  uint64_t told_;                                    // all below were told
  uint64_t last_;                                    // no k beyond it counts
  const char* stopped_ = "max";
  std::map<std::string, uint64_t> outcomes_;
  bool bad_ = false;
  bool stopping_ = false;
  Result<> result_;
  int signal_ = 0;
};

}  // namespace pv::faultcmd
