// SPDX-License-Identifier: MIT
#include "blk/fault/rules.hpp"

#include <algorithm>

namespace pv::blk {
namespace {

// So many ranges are in the common index, which is made anew with every change of the rules. A rule
// for which there is no room is asked itself; it has an index of its own.
constexpr size_t k_max_listed = 16384;

}  // namespace

Rule* RuleSet::find(const std::string& id) const {
  for (Rule* rule : all_)
    if (rule->id() == id) return rule;
  return nullptr;
}

Rule& RuleSet::add(Rule rule) {
  rules_.push_back(std::make_unique<Rule>(std::move(rule)));
  return *rules_.back();
}

std::vector<std::unique_ptr<Rule>> RuleSet::remove(const std::string& id) {
  std::vector<std::unique_ptr<Rule>> gone, kept;
  for (auto& rule : rules_)
    (id.empty() || rule->id() == id ? gone : kept).push_back(std::move(rule));
  rules_ = std::move(kept);
  index();
  return gone;
}

void RuleSet::index() {
  all_.clear();
  anywhere_.clear();
  watchers_.clear();
  keepers_.clear();
  healers_.clear();
  anywhere_ops_ = listed_ops_ = 0;
  std::fill(std::begin(stages_), std::end(stages_), false);
  std::vector<Range> listed;
  for (const auto& owned : rules_) {
    Rule& rule = *owned;
    all_.push_back(&rule);
    stages_[static_cast<int>(rule.stage())] = true;
    if (rule.action().watches()) watchers_.push_back(&rule);
    if (rule.action().keeps_old()) keepers_.push_back(&rule);
    if (rule.heals()) healers_.push_back(&rule);
    const Match& match = rule.match();
    const bool fits = listed.size() + match.ranges.count() <= k_max_listed;
    if (match.ranged && fits && !rule.latched()) {
      listed_ops_ |= match.ops;
      const std::vector<Range> ranges = match.ranges.list();
      listed.insert(listed.end(), ranges.begin(), ranges.end());
    } else {
      anywhere_ops_ |= rule.latched() ? k_every_op : match.ops;
      anywhere_.push_back(&rule);
    }
  }
  listed_ = RangeSet(std::move(listed));
}

}  // namespace pv::blk
