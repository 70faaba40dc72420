// SPDX-License-Identifier: MIT
// What a mirror or a history has found and what a fault layer has done, put together: is the disk
// good, and if it is not, was that asked for? Pure functions of two journals, whose lines are
// foreign: what is missing in one counts as nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.hpp"

namespace pv::verify {

struct ReportInput {
  json findings = json::array();  // lines of the journal of a mirror, oldest first
  json faults = json::array();    // lines of the journal of a fault layer, oldest first
  uint64_t findings_began_ns = 0, faults_began_ns = 0;  // wall time of t_ns 0
  uint64_t dropped = 0, faults_dropped = 0;             // lines that are no longer there
  std::string disk;
  std::string broken;              // the errno for which nothing is compared any more
  bool reference_changed = false;  // by somebody else, while it was mirrored
  uint64_t damaged_entries = 0;    // of a history: what should be there is not known
  uint64_t left_out_bytes = 0;     // that are not compared at the moment
  uint64_t size = 0;               // bytes; 0: not known
};

struct Range {
  uint64_t offset = 0, length = 0;
  uint64_t end() const { return offset + length; }
  bool touches(const Range& other) const { return offset < other.end() && other.offset < end(); }
};
// From {"offset_bytes","length_bytes"}; a range that no disk has is empty.
Range range_of(const json& object);

// A mismatch with the faults that can have caused it: the rules that the finding names, and the
// events before it on the same bytes, or where they belong, that no later write has made good.
struct Case {
  const json* finding = nullptr;
  std::vector<const json*> faults;  // events, at most k_max_faults, the newest first
  std::vector<std::string> rules;   // ids, each once
  std::vector<Range> ranges;
};
constexpr size_t k_max_faults = 16;
std::vector<Case> cases(const ReportInput& input);

// The findings of requests that ended differently on the two legs, oldest first.
std::vector<const json*> status_findings(const ReportInput& input);

// {"verdict","mismatches","by_class",…}: man/pv-verify.1 says what each key means.
json verdict(const ReportInput& input, const std::vector<Case>& cases);

}  // namespace pv::verify
