// SPDX-License-Identifier: MIT
// The rules of one disk, in the order in which they were added, and an index that tells in a moment
// that a request concerns none of them: a thousand rules must not slow down what they do not mean.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blk/fault/rule.hpp"

namespace pv::blk {

class RuleSet {
 public:
  using List = std::vector<Rule*>;
  static constexpr size_t k_max_rules = 4096;

  size_t size() const { return rules_.size(); }
  Rule* find(const std::string& id) const;
  const List& all() const { return all_; }

  // The caller has seen to the id.
  Rule& add(Rule rule);
  // Takes rules out: the one with this id, or all for "".
  std::vector<std::unique_ptr<Rule>> remove(const std::string& id);

  // The rules that may be about `request`, in order; none of the others is.
  const List& candidates(const Request& request) const {
    if ((listed_ops_ & op_bit(request.op)) != 0 && listed_.touches(request.offset, request.length))
      return all_;
    return (anywhere_ops_ & op_bit(request.op)) != 0 ? anywhere_ : none_;
  }
  // Those that see every request, those that want to know what was there before, and those that a
  // rewrite heals.
  const List& watchers() const { return watchers_; }
  const List& keepers() const { return keepers_; }
  const List& healers() const { return healers_; }
  bool has(Stage stage) const { return stages_[static_cast<int>(stage)]; }

  // After the rules have changed, or one has latched.
  void index();

 private:
  std::vector<std::unique_ptr<Rule>> rules_;
  List all_, anywhere_, watchers_, keepers_, healers_, none_;
  uint32_t anywhere_ops_ = 0, listed_ops_ = 0;
  RangeSet listed_;  // of all rules that have few ranges
  bool stages_[3] = {};
};

}  // namespace pv::blk
