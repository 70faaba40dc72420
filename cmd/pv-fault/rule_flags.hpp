// SPDX-License-Identifier: MIT
// The flags that make up a fault rule, and the rule object that they make. `add` has all of them,
// `sweep` those that do not say when.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "cli/command.hpp"

namespace pv::faultcmd {

struct RuleFlags {
  std::string mode, rule, id;
  // which requests
  std::vector<std::string> ops, ranges, sectors, flags, connections;
  std::string sectors_file, min_bytes, max_bytes, aligned_to, unaligned_to;
  std::string content, content_hex, content_at, front;
  bool clip = false;
  // when
  std::string after, every, nth, times, probability, seed, from, to, cycle, in_flight, state;
  std::string since, until, on;
  // what
  std::string error, delay, then;
  std::vector<std::string> set;
  bool heal = false;

  // Whether it is more than a mode's name.
  bool has_selector() const;
};

void add_rule_flag(cli::Verb& verb, RuleFlags& flags);
void add_match_flags(cli::Verb& verb, RuleFlags& flags);
void add_when_flags(cli::Verb& verb, RuleFlags& flags);
void add_action_flags(cli::Verb& verb, RuleFlags& flags);

// From a mode or a JSON object, with what the flags add. Code::usage for flags that are wrong,
// Code::bad_mode with the valid ones; the rest is checked by the disk.
Result<json> rule_from_flags(const RuleFlags& flags, uint64_t sector_size);

// Very many ranges are sent packed: a disk that is in use must not stop to parse them.
void pack_ranges(json& rule);

}  // namespace pv::faultcmd
