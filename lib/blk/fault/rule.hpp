// SPDX-License-Identifier: MIT
// A fault rule: which requests it looks at (match), which of those it acts on (when), what it does
// (an Action made by a kind) and what comes of it (then, heal). The same JSON object on the command
// line, on stdin, on the control socket and in `pv-fault list`; pv-faults(7) describes every key.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "blk/fault/action.hpp"
#include "blk/fault/match.hpp"
#include "blk/fault/when.hpp"

namespace pv::blk {

// What a rule is checked against.
struct RuleGround {
  Geometry geometry;
  bool volatile_cache = false;  // there is a layer `cache` below
};

// How far a rule has come, where that is kept outside the process (kept.hpp).
struct Tally {
  uint64_t serial, matched, fired, latched;
};

class Rule {
 public:
  // Parses and checks a rule object. Code::bad_rule; Code::bad_mode with the valid kinds;
  // Code::unsupported for what cannot be done on this disk or front end. A rule that could never
  // fire is refused.
  static Result<Rule> parse(const json& object, const RuleGround& ground);

  // Whether `request` is one that this rule is about, here and now.
  bool matches(const Request& request, const Scene& scene, uint64_t now_ns) const {
    if (latched_) return true;
    return match_.covers(request) &&
           (!when_.conditional() || when_.holds(scene, now_ns - added_ns, fired_));
  }
  // Whether it is about new connections, and about this one; `hello` says whose it is.
  bool greets(const Request& hello, const Scene& scene, uint64_t now_ns) const {
    return action_->greets() && match_.comes_from(hello) &&
           when_.holds(scene, now_ns - added_ns, fired_);
  }
  // Counts a match and says whether the rule fires: a pure function of the seed, the rule's id and
  // the number of the match.
  bool count();
  // From now on it counts there, too.
  void count_in(Tally* tally);
  // Of the last match that was counted.
  Chance chance() const { return key_.of(matched_ - 1); }
  uint64_t match_number() const { return matched_; }

  // A change of this range has been carried out.
  void rewritten(uint64_t offset, uint64_t length) {
    if (heals_) match_.ranges.erase(offset, length);
  }
  bool heals() const { return heals_; }
  // Whether its matches depend on more than the request.
  bool conditional() const { return when_.conditional(); }
  // Until its time window ends; UINT64_MAX where it has none.
  uint64_t left_ns(uint64_t now_ns) const {
    const uint64_t age = now_ns - added_ns;
    return when_.until_ns == UINT64_MAX ? UINT64_MAX
                                        : when_.until_ns - std::min(age, when_.until_ns);
  }

  // The whole rule with matched, fired and left.
  json to_json() const;
  // For snapshots: all of it and how far it has come; and back, Code::snapshot_corrupt for what
  // saved() cannot have said. The layer sets its `mark`.
  json saved() const;
  static Result<Rule> from_saved(const json& saved, const RuleGround& ground);
  // The definition alone: equal for two rules that do the same.
  json definition() const;

  const Action& action() const { return *action_; }
  // For who still needs it when the rule has been cleared.
  std::shared_ptr<const Action> shared_action() const { return action_; }
  Stage stage() const { return action_->stage(); }
  const Match& match() const { return match_; }
  const char* kind() const { return kind_; }
  const std::string& next_state() const { return next_state_; }
  uint64_t fired() const { return fired_; }
  bool latched() const { return latched_; }

  const std::string& id() const { return id_; }
  // Settles the rule's chance as well.
  void set_id(std::string id);

  uint64_t serial = 0;       // order of arrival; this and the next two are set by the layer
  uint64_t added_ns = 0;     // on the layer's clock
  uint64_t* mark = nullptr;  // counts firings under the rule's id, for `since` of others

 private:
  std::string id_;
  Match match_;
  When when_;
  const char* kind_ = "";
  std::shared_ptr<const Action> action_;
  std::string next_state_;
  bool heals_ = false;
  bool latched_ = false;
  bool decide();
  Tally* tally_ = nullptr;
  Chance key_{0};
  uint64_t matched_ = 0;
  uint64_t fired_ = 0;
};

// The rule behind a seed name (eio_read, eio_write, slow), or nullopt.
std::optional<json> shorthand_rule(std::string_view mode);

// The names that `pv-fault add` accepts: shorthands, then kinds.
std::vector<std::string> valid_modes();

}  // namespace pv::blk
