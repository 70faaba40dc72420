// SPDX-License-Identifier: MIT
// One run of a sweep: a fresh disk with the rule armed for the k-th request, the command, a look at
// what the rule did, the check, and what came of it all. Destroying a run ends whatever it has
// started and removes what it has made. On the thread of its Loop; talking to the disk's server is
// done in one go, because the server answers at once.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/run_dir.hpp"
#include "serve/client.hpp"
#include "serve/spec.hpp"
#include "sweep_program.hpp"

namespace pv::faultcmd {

// What all runs have in common.
struct SweepPlan {
  serve::Spec spec;      // without what is each run's own
  bool overlay = false;  // changes go to an overlay
  bool keep = false;     // ... in a file that stays when the disk was corrupted
  json rule;
  std::vector<std::string> argv;
  std::string check;  // for `sh -c`; none when empty
  uint64_t run_timeout_ns = 0;
  uint64_t talk_timeout_ns = 0;  // to come up, and for an answer
  std::string scope;             // each run's own is this, "-" and k
  std::string disk;              // its id
  std::string dir;               // temporary; with one folder for each run
};

struct SweepReport {
  json document;  // the value of `sweep`
  std::string outcome;
  bool fired = false;
  bool command_succeeded = false;
};

class SweepRun {
 public:
  // Called once from the loop, or never; the run must not be destroyed in it.
  using Done = std::function<void(Result<SweepReport>)>;

  SweepRun(Loop& loop, const SweepPlan& plan, uint64_t k, Done done);
  ~SweepRun();
  SweepRun(const SweepRun&) = delete;
  SweepRun& operator=(const SweepRun&) = delete;

  Result<> start();
  // Asks its program to end, ahead of the destructor.
  void ask_to_end();

 private:
  Result<> open_disk();
  Result<serve::DiskClient> connect() const;
  std::vector<std::string> environment() const;
  std::vector<std::string> command_line() const;
  void after_command(Result<Ended> ended);
  Result<> examine();
  void check();
  void report();
  void close();
  std::string overlay_path() const;

  Loop& loop_;
  const SweepPlan& plan_;
  const uint64_t k_;
  Done done_;
  std::string dir_;
  std::optional<RunDir> run_dir_;
  std::optional<Object> disk_;
  pid_t server_ = 0;
  std::string uri_;
  std::string rule_id_;
  std::unique_ptr<Program> program_;
  Ended command_;
  std::optional<Ended> check_;
  uint64_t matched_ = 0, fired_ = 0;
  json fault_;  // the first event of the journal
  bool kept_ = false;
  bool idle_ = false;  // no request can be in flight
};

}  // namespace pv::faultcmd
