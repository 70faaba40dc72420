// SPDX-License-Identifier: MIT
// What a fault layer has in files of its disk's directory, so that a server which comes after one
// that was killed goes on where that stood: the rules, written down whenever somebody changes them,
// and beside them how far each has come, in memory that outlives the process. Owned by the layer.
#pragma once

#include <memory>
#include <string>

#include "base/json.hpp"
#include "base/mapped_file.hpp"
#include "base/result.hpp"
#include "blk/fault/rules.hpp"

namespace pv::blk {

class KeptRules {
 public:
  // A stack may have several fault layers: the first name that nobody has is taken.
  static Result<std::unique_ptr<KeptRules>> open(const std::string& dir);

  // What save() was given last, brought up to date; null when it never was.
  Result<json> load() const;
  // `section` is what the layer says in a snapshot. From now on the rules count here.
  Result<> save(const json& section, const RuleSet::List& rules);

  void set_state(const std::string& state);
  void set_events(uint64_t last, uint64_t last_ticket, const std::string& journal);
  uint64_t last_event() const { return head().last_event; }
  uint64_t last_ticket() const { return head().last_ticket; }
  std::string journal() const { return head().journal; }

 private:
  static constexpr size_t k_text = 256;
  struct Head {
    uint64_t last_event, last_ticket;
    char state[k_text], journal[k_text];
  };
  static constexpr size_t k_bytes = sizeof(Head) + RuleSet::k_max_rules * sizeof(Tally);

  KeptRules(std::string path, MappedFile counts)
      : path_(std::move(path)), counts_(std::move(counts)) {}
  Head& head() const { return *reinterpret_cast<Head*>(counts_.data()); }
  Tally* tallies() const { return reinterpret_cast<Tally*>(&head() + 1); }

  std::string path_;
  MappedFile counts_;
};

}  // namespace pv::blk
