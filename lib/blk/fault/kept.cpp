// SPDX-License-Identifier: MIT
#include "blk/fault/kept.hpp"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <map>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::blk {
namespace {

constexpr int k_max_layers = 256;
constexpr size_t k_max_rules_file = 256 << 20;

void put_text(char* to, size_t room, const std::string& text) {
  if (text.size() >= room) return;
  std::memset(to, 0, room);
  std::memcpy(to, text.data(), text.size());
}

}  // namespace

Result<std::unique_ptr<KeptRules>> KeptRules::open(const std::string& dir) {
  for (int layer = 0; layer < k_max_layers; ++layer) {
    const std::string path = fmt::format("{}/rules-{}", dir, layer);
    auto counts = MappedFile::open(path + ".counts", k_bytes);
    if (counts)
      return std::unique_ptr<KeptRules>(new KeptRules(path + ".json", std::move(*counts)));
    if (counts.error().code != Code::in_use) return fail(counts.error());
  }
  return fail(Code::invalid, "too many fault layers");
}

// The rules may have been written down before or after they last counted: what belongs together has
// the same serial.
Result<json> KeptRules::load() const {
  auto text = read_file(path_, k_max_rules_file);
  if (!text) return json();
  TRY_ASSIGN(json section, parse_json(*text));
  std::map<uint64_t, const Tally*> tallies;
  for (size_t i = 0; i < RuleSet::k_max_rules; ++i)
    if (const Tally& tally = this->tallies()[i]; tally.serial != 0) tallies[tally.serial] = &tally;
  for (json& rule : section["rules"]) {
    const auto found = tallies.find(get_u64(rule, "serial"));
    if (found == tallies.end()) continue;
    rule["matched"] = found->second->matched;
    rule["fired"] = found->second->fired;
    rule["latched"] = found->second->latched != 0;
    if (found->second->fired != 0) section["marks"][get_string(rule, "id")] = found->second->fired;
  }
  if (head().state[0] != '\0') section["state"] = head().state;
  section["last_event"] = std::max(get_u64(section, "last_event"), last_event());
  section["last_ticket"] = std::max(get_u64(section, "last_ticket"), last_ticket());
  return section;
}

Result<> KeptRules::save(const json& section, const RuleSet::List& rules) {
  for (size_t i = 0; i < rules.size(); ++i) rules[i]->count_in(tallies() + i);
  for (size_t i = rules.size(); i < RuleSet::k_max_rules && tallies()[i].serial != 0; ++i)
    tallies()[i] = {};
  set_state(get_string(section, "state"));
  return write_file_atomic(path_, section.dump(), 0600);
}

void KeptRules::set_state(const std::string& state) {
  put_text(head().state, k_text, state);
}

void KeptRules::set_events(uint64_t last, uint64_t last_ticket, const std::string& journal) {
  head().last_event = last;
  head().last_ticket = last_ticket;
  put_text(head().journal, k_text, journal);
}

}  // namespace pv::blk
