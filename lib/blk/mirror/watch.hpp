// SPDX-License-Identifier: MIT
// What becomes of a finding: a line in the journal, a count, and an answer to the guest by policy.
// A request may be held until somebody lets it go, or until the server has stopped the VM; both end
// by themselves after a time, so that no guest hangs for ever on a comparison. Owned by a layer, on
// its thread.
//
// Its part of the conversation with pv-verify and the server:
//   verify.status                   {"policy","mismatches","by_class",…}
//   verify.journal                  where the files are, see line_journal.hpp
//   verify.held                     {"held":[{"ticket",…}]}
//   verify.release tickets error    {"released"}   no tickets: every one
//   verify.stop_wanted              {"wanted"}     whether a VM is to be stopped, told once
//   verify.stopped told vm error    {}             it is, or cannot be
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "blk/line_journal.hpp"
#include "blk/mirror/explain.hpp"
#include "blk/params.hpp"

namespace pv::blk {

class Watch {
 public:
  enum class Policy : uint8_t { report, eio, hold, stop_vm };
  struct Options {
    Policy policy = Policy::report;
    uint64_t hold_ns = 60 * k_ns_per_s;
    uint64_t journal_bytes = LineJournal::k_default_bytes;
  };
  // on-mismatch, hold and journal of a layer's keys.
  static Result<Options> parse(const LayerSpec& layer);

  Watch(const Env& env, const Options& options);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Waits for its answer. `go` is called once, with 0 or an errno, possibly in found().
  struct Asker {
    void* owner = nullptr;
    void (*go)(Asker& asker, int error) = nullptr;
  };
  // A mismatch: `record` becomes its line. With a null `asker` nobody waits.
  void found(Damage damage, json record, Asker* asker);
  // Statuses that differ; `known` when a fault rule is why: that alarms nobody.
  void status(json record, bool known, Asker* asker);
  // A line that is no finding.
  void note(json record);
  // From now on nothing can be compared, for this errno. Told once.
  void set_broken(int error);
  bool broken() const { return broken_ != 0; }

  uint64_t now_ns() const { return env_.clock.now_ns() - started_ns_; }
  uint64_t mismatches() const;
  // Nullopt for what is none of its business.
  std::optional<Result<json>> control(const json& request);
  json shown() const;
  // Nobody will let go what is held: all of it ends with this.
  void end_held(int error);

 private:
  struct Held {
    Asker* asker;
    TimerId timer;
    uint64_t since_ns;
    json request;
    bool for_stop;
  };
  uint64_t add(json record);
  void answer(const json& record, Asker* asker);
  void hold(const json& record, Asker& asker, uint64_t ns, bool for_stop);
  void let_go(uint64_t ticket, int error);
  Result<json> release(const json& request);
  json held() const;
  json stopped(const json& request);

  Env env_;
  Options options_;
  uint64_t started_ns_, began_wall_ns_;
  LineJournal journal_;
  TimerId journal_timer_ = 0;
  std::array<uint64_t, k_damages> by_class_{};
  uint64_t statuses_ = 0, known_statuses_ = 0, last_ticket_ = 0, timed_out_ = 0;
  std::map<uint64_t, Held> held_;
  bool stop_wanted_ = false;
  int broken_ = 0;
};

}  // namespace pv::blk
