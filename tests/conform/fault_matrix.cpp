// SPDX-License-Identifier: MIT
// If this fails, a kind of fault does something else than it says, at other requests than its rule
// says, or leaves a record that is not true.
#include "fault_matrix.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "blk/fault/kinds.hpp"

using namespace pv;
using namespace pv::test;
using namespace pv::test::matrix;

namespace {

// One stack a kind and front end: rules come and go, the disk and its clients stay.
struct Stations {
  std::map<std::pair<Front, bool>, std::unique_ptr<Station>> all;
  Station& get(Front front, bool cached) {
    auto& station = all[{front, cached}];
    if (!station) station = make_station(front, cached);
    return *station;
  }
};

std::string told(const Cell& cell) {
  std::string text;
  for (const Wrongs* wrongs : {&cell.client, &cell.medium, &cell.record})
    for (size_t i = 0; i < std::min<size_t>(wrongs->size(), 4); ++i) text += "\n  " + (*wrongs)[i];
  return text;
}

}  // namespace

TEST_CASE("every kind of fault has an oracle", "[fault][matrix]") {
  std::set<std::string> known, kinds;
  for (const Subject& subject : subjects()) known.insert(subject.kind);
  for (const KindRow& row : fault_kinds()) {
    INFO("kind " << row.name << " has no row in fault_matrix_kinds.cpp");
    CHECK(known.count(row.name) == 1);
    kinds.insert(row.name);
  }
  CHECK(known == kinds);
}

TEST_CASE("every kind does what it says, at the requests that its rule says, on every front end",
          "[fault][matrix]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  std::map<std::string, size_t> skipped;
  size_t cells = 0, requests = 0;
  uint64_t number = 0;
  for (const Subject& subject : subjects()) {
    Stations stations;
    for (const Front front : {Front::host, Front::nbd, Front::vhost}) {
      for (const Trigger& trigger : triggers()) {
        ++number;
        if (const char* why = excluded(subject, trigger, front)) {
          ++skipped[why];
          continue;
        }
        if (subject.wire) stations = {};  // numbers of connections count from 1
        Cell cell(stations.get(front, subject.cached), subject, trigger, number, seed);
        cell.run();
        ++cells;
        requests += cell.world.matched;
        const std::string wrong = told(cell);
        INFO(subject.name() << " / " << front_name(front) << " / " << trigger.name << wrong);
        CHECK(wrong.empty());
      }
    }
  }
  std::string text = fmt::format("{} cells, {} matches", cells, requests);
  for (const auto& [why, count] : skipped) text += fmt::format("; {} left out: {}", count, why);
  WARN(text);
  CHECK(cells > 3000);
}

// An action that does nothing is seen by clients or on the medium, whatever the journal says; so is
// one that fires at every match.
TEST_CASE("the matrix notices a kind that does nothing, and a rule that fires too often",
          "[fault][matrix]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  uint64_t number = 0;
  for (const Subject& subject : subjects()) {
    Stations stations;
    for (const Trigger& trigger : triggers()) {
      if (excluded(subject, trigger, Front::host) != nullptr) continue;
      INFO(subject.name() << " / " << trigger.name);
      Station& station = stations.get(Front::host, subject.cached);
      Cell idle(station, subject, trigger, ++number, seed, Sabotage::idle);
      idle.run();
      if (idle.world.fired >= subject.telling) CHECK(idle.client.size() + idle.medium.size() != 0);
      Cell restless(station, subject, trigger, ++number, seed, Sabotage::restless);
      restless.run();
      if (std::string_view(trigger.name) == "every" && !subject.latches)
        CHECK(restless.client.size() + restless.medium.size() != 0);
    }
  }
}
