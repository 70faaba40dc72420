// SPDX-License-Identifier: MIT
// A fault rule: which requests it looks at (match), which of those it acts on (when), and what it
// does (an Action made by a kind). The same JSON object on the command line, on stdin, on the
// control socket and in `pv-fault list`; pv-faults(7) describes every key.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

// What an action may do to one request on its way down. Implemented by the fault layer.
class Passage {
 public:
  virtual ~Passage() = default;
  virtual const Request& request() const = 0;
  virtual void add_delay(uint64_t ns) = 0;
  virtual void fail(int error) = 0;
};

// Delays are applied first, all of them; then the first matching outcome decides.
enum class Stage : uint8_t { delay, outcome };

class Action {
 public:
  virtual ~Action() = default;
  virtual Stage stage() const = 0;
  virtual void apply(Passage& passage) const = 0;
  // Operations that this action can be applied to, one bit per Op.
  virtual uint32_t ops() const { return ~0U; }
  // The canonical `do` object.
  virtual json describe() const = 0;
};

struct Range {
  uint64_t offset;
  uint64_t length;
};

struct Match {
  uint32_t ops = ~0U;         // one bit per Op
  std::vector<Range> ranges;  // sorted, merged; none: every address
  bool covers(const Request& request) const;
};

struct When {
  uint64_t after = 0;             // matches that pass untouched first
  uint64_t every = 1;             // then every n-th match fires
  std::optional<uint64_t> times;  // at most so often
  double probability = 1;
  uint64_t seed = 0;
};

class Rule {
 public:
  // Parses and checks a rule object for a disk of `disk_size` bytes. Code::bad_rule, and
  // Code::bad_mode with the valid kinds. A rule that could never fire is refused.
  static Result<Rule> parse(const json& object, uint64_t disk_size);

  // Counts a match of `request` and says whether the rule fires. A pure function of the seed, the
  // rule's id and its match number.
  bool take(const Request& request);

  // The whole rule with matched, fired and left.
  json to_json() const;
  // The definition alone: equal for two rules that do the same.
  json definition() const;

  const Action& action() const { return *action_; }
  Stage stage() const { return action_->stage(); }

  std::string id;
  uint64_t serial = 0;  // order of arrival, set by the layer

 private:
  Match match_;
  When when_;
  std::unique_ptr<Action> action_;
  uint64_t matched_ = 0;
  uint64_t fired_ = 0;
};

// The rule behind a seed name (eio_read, eio_write, slow), or nullopt.
std::optional<json> shorthand_rule(std::string_view mode);

// The names that `pv-fault add` accepts: shorthands, then kinds.
std::vector<std::string> valid_modes();

}  // namespace pv::blk
