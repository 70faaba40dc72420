// SPDX-License-Identifier: MIT
// If this fails, a host may do what a reservation forbids it, is kept from what it may, or a
// service action leaves another state than SPC-4 says.
#include <cerrno>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "blk/reservation.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

using Type = ReserveType;
using Action = ReserveAction;

constexpr Type k_types[] = {Type::write_exclusive,
                            Type::exclusive_access,
                            Type::write_exclusive_registrants_only,
                            Type::exclusive_access_registrants_only,
                            Type::write_exclusive_all_registrants,
                            Type::exclusive_access_all_registrants};

// Hosts "a" (the one that reserves), "b" (registered as well), "c" (not registered).
struct State : Reservations {
  std::string act(const char* host, Action action, uint64_t key, uint64_t new_key = 0,
                  Type type = Type::none) {
    const auto done = apply({action, host, key, new_key, type, false});
    if (!done) return std::string(code_name(done.error().code));
    return join(*done, " ");
  }
  std::string enrol(const char* host, uint64_t key) {
    return act(host, Action::register_key, 0, key);
  }
  static State reserved(Type type) {
    State state;
    CHECK(state.enrol("a", 1).empty());
    CHECK(state.enrol("b", 2).empty());
    CHECK(state.act("a", Action::reserve, 1, 0, type).empty());
    return state;
  }
  std::string type() const { return get_string(report(), "type", "none"); }
  std::string hosts() const {
    std::string all;
    const json said = report();
    for (const json& row : said["registrants"])
      all += get_string(row, "host") + (get_bool(row, "holds") ? "*" : "");
    return all;
  }
};

}  // namespace

TEST_CASE("type by host by operation: who may do what", "[reserve]") {
  struct Row {
    Type type;
    const char* reads;  // hosts that may
    const char* writes;
  };
  // SBC-3, "commands that are allowed in the presence of various reservations".
  const Row rows[] = {
      {Type::none, "abc", "abc"},
      {Type::write_exclusive, "abc", "a"},
      {Type::exclusive_access, "a", "a"},
      {Type::write_exclusive_registrants_only, "abc", "ab"},
      {Type::exclusive_access_registrants_only, "ab", "ab"},
      {Type::write_exclusive_all_registrants, "abc", "ab"},
      {Type::exclusive_access_all_registrants, "ab", "ab"},
  };
  for (const Row& row : rows) {
    State state;
    if (row.type != Type::none) state = State::reserved(row.type);
    for (const char* host : {"a", "b", "c", ""})
      for (const Op op :
           {Op::read, Op::write, Op::flush, Op::discard, Op::zero, Op::map, Op::cache}) {
        const bool read = op == Op::read || op == Op::map || op == Op::cache;
        const char who = *host == '\0' ? 'c' : *host;  // nobody in particular is no registrant
        INFO(reserve_type_name(row.type) << ": " << op_name(op) << " by '" << host << "'");
        CHECK(state.allows(host, op) ==
              (std::string_view(read ? row.reads : row.writes).find(who) != std::string::npos));
      }
  }
}

TEST_CASE("registering, and its table of behaviours", "[reserve]") {
  State state;
  CHECK(state.act("a", Action::register_key, 7, 1) == "reservation_conflict");
  CHECK(state.act("a", Action::register_key, 0, 0).empty());  // nothing to do
  CHECK(state.generation() == 0);
  CHECK(state.enrol("a", 1).empty());
  CHECK(state.generation() == 1);
  CHECK(state.act("a", Action::register_key, 0, 2) == "reservation_conflict");
  CHECK(state.act("a", Action::register_key, 1, 2).empty());
  CHECK(state.act("a", Action::register_ignore, 99, 3).empty());
  CHECK(state.act("a", Action::reserve, 2, 0, Type::write_exclusive) == "reservation_conflict");
  CHECK(state.act("a", Action::reserve, 3, 0, Type::write_exclusive).empty());
  CHECK(state.generation() == 3);  // reserving does not count
  CHECK(state.act("a", Action::register_key, 3, 0).empty());
  CHECK(state.hosts().empty());
  CHECK(state.type() == "none");
  CHECK(state.act("", Action::register_key, 0, 1) == "usage");
}

TEST_CASE("every action but register needs a registration and its key", "[reserve]") {
  for (const Action action :
       {Action::reserve, Action::release, Action::clear, Action::preempt, Action::preempt_abort}) {
    State state;
    CHECK(state.act("a", action, 0, 1, Type::write_exclusive) == "reservation_conflict");
    CHECK(state.enrol("a", 1).empty());
    CHECK(state.act("a", action, 2, 1, Type::write_exclusive) == "reservation_conflict");
    CHECK(state.generation() == 1);
  }
}

TEST_CASE("one reservation at a time, whatever the types", "[reserve]") {
  for (const Type held : k_types)
    for (const Type asked : k_types) {
      INFO(reserve_type_name(held) << " held, " << reserve_type_name(asked) << " asked for");
      State state = State::reserved(held);
      const bool all = held == Type::write_exclusive_all_registrants ||
                       held == Type::exclusive_access_all_registrants;
      CHECK(state.act("a", Action::reserve, 1, 0, asked) ==
            (asked == held ? "" : "reservation_conflict"));
      CHECK(state.act("b", Action::reserve, 2, 0, asked) ==
            (asked == held && all ? "" : "reservation_conflict"));
      CHECK(state.type() == reserve_type_name(held));
      // Releasing: of another type is an error of the holder, nothing for all others.
      CHECK(state.act("b", Action::release, 2, 0, asked) ==
            (all && asked != held ? "invalid" : ""));
      if (!all) CHECK(state.type() == reserve_type_name(held));
      if (all && asked == held) CHECK(state.type() == "none");
      if (!all)
        CHECK(state.act("a", Action::release, 1, 0, asked) == (asked == held ? "" : "invalid"));
    }
}

TEST_CASE("a reservation ends with its holder, one of all registrants with the last", "[reserve]") {
  for (const Type type : k_types) {
    INFO(reserve_type_name(type));
    const bool all = type == Type::write_exclusive_all_registrants ||
                     type == Type::exclusive_access_all_registrants;
    State state = State::reserved(type);
    CHECK(state.hosts() == (all ? "a*b*" : "a*b"));
    CHECK(state.act("a", Action::register_key, 1, 0).empty());
    CHECK(state.type() == (all ? reserve_type_name(type) : "none"));
    CHECK(state.act("b", Action::register_key, 2, 0).empty());
    CHECK(state.type() == "none");
    State cleared = State::reserved(type);
    CHECK(cleared.act("b", Action::clear, 2).empty());
    CHECK((cleared.hosts().empty() && cleared.type() == "none"));
    CHECK(cleared.generation() == 3);
  }
}

TEST_CASE("preempting takes the reservation, or only registrations, by the key", "[reserve]") {
  for (const Type type : k_types) {
    INFO(reserve_type_name(type));
    const bool all = type == Type::write_exclusive_all_registrants ||
                     type == Type::exclusive_access_all_registrants;
    const auto fresh = [&] {
      State state = State::reserved(type);
      CHECK(state.enrol("d", 2).empty());  // the key of b
      return state;
    };
    State holder = fresh();
    CHECK(holder.act("b", Action::preempt, 2, 1, Type::write_exclusive) == "a");
    CHECK(holder.hosts() == (all ? "b*d*" : "b*d"));
    CHECK(holder.type() == (all ? reserve_type_name(type) : "write_exclusive"));
    CHECK(holder.generation() == 4);
    State others = fresh();
    CHECK(others.act("a", Action::preempt, 1, 2, Type::write_exclusive) == "b d");
    CHECK(others.hosts() == "a*");
    CHECK(others.type() == reserve_type_name(type));
    State nobody = fresh();
    CHECK(nobody.act("a", Action::preempt, 1, 9, Type::write_exclusive) == "reservation_conflict");
    CHECK(nobody.generation() == 3);
    State zero = fresh();
    CHECK(zero.act("b", Action::preempt, 2, 0, Type::exclusive_access) ==
          (all ? "a d" : "invalid"));
    CHECK(zero.hosts() == (all ? "b*" : "a*bd"));
    // Its own reservation: a change of type, the registration stays.
    State own = fresh();
    if (all) continue;
    CHECK(own.act("a", Action::preempt, 1, 1, Type::exclusive_access_all_registrants).empty());
    CHECK(own.hosts() == "a*b*d*");
    CHECK(own.type() == "exclusive_access_all_registrants");
  }
}

namespace {

// Holds requests back until it is told to go on.
struct Slow final : Forward {
  using Forward::Forward;
  bool hold = false;
  std::vector<Request*> held;
  void submit(Request& request) override {
    if (!hold) return lower().submit(request);
    held.push_back(&request);
  }
  void release() {
    std::vector<Request*> all;
    all.swap(held);
    for (Request* request : all) lower().submit(*request);
  }
};

struct ReserveRig {
  std::unique_ptr<Loop> loop = *Loop::create();
  Slow* slow = nullptr;
  std::unique_ptr<Disk> disk;

  explicit ReserveRig(const std::string& layer = "reserve") {
    auto built = build(layer);
    REQUIRE(built);
    disk = std::move(*built);
  }
  Result<std::unique_ptr<Disk>> build(const std::string& layer) {
    Geometry geometry;
    geometry.size = 1 << 20;
    auto bottom = std::make_unique<Slow>(*make_memory_disk(geometry));
    slow = bottom.get();
    const std::vector<LayerSpec> specs = {*parse_layer(layer)};
    return build_stack(std::move(bottom), specs, {system_clock(), *loop, loop.get(), 0}, true);
  }
  std::string act(const char* op, const char* host, json more = json::object()) {
    more["op"] = op;
    more["host_key"] = host;
    const auto answer = disk->control(more);
    return answer ? "" : std::string(code_name(answer.error().code));
  }
  std::unique_ptr<Io> start(const char* host, Op op) {
    auto io = std::make_unique<Io>(op, 0, op == Op::flush ? 0 : 512);
    io->request.host = host;
    disk->submit(io->request);
    return io;
  }
  json report() { return (*disk->control({{"op", "reserve.report"}}))["reservation"]; }
};

}  // namespace

TEST_CASE("the layer answers EBADE to those who may not, and tells the rest on", "[reserve]") {
  ReserveRig rig;
  CHECK(rig.act("reserve.register", "a", {{"new_key", "0xabc"}}).empty());
  CHECK(rig.act("reserve.reserve", "a", {{"key", "0xabc"}, {"type", "write_exclusive"}}).empty());
  for (const Op op : {Op::write, Op::zero, Op::discard, Op::flush}) {
    CHECK(rig.start("b", op)->error == EBADE);
    CHECK(rig.start("", op)->error == EBADE);
    CHECK(rig.start("a", op)->error == 0);
  }
  CHECK(rig.start("b", Op::read)->error == 0);
  CHECK(rig.report()["registrants"][0]["key"] == "0xabc");
  CHECK(rig.act("reserve.reserve", "a", {{"key", "x"}}) == "usage");
  CHECK(rig.act("reserve.reserve", "a", {{"key", "1"}, {"type", "x"}}) == "usage");
  CHECK(rig.act("reserve.register", "a b", {{"new_key", "1"}}) == "usage");
  CHECK(rig.act("reserve.register", "a", {{"new_key", "18446744073709551616"}}) == "usage");
  CHECK(rig.act("reserve.register", "b", {{"new_key", "1"}, {"ptpl", true}}) == "invalid");
}

TEST_CASE("preempt-and-abort ends its victims' requests once, when they are back from below",
          "[reserve]") {
  ReserveRig rig;
  CHECK(rig.act("reserve.register", "a", {{"new_key", "1"}}).empty());
  CHECK(rig.act("reserve.register", "b", {{"new_key", "2"}}).empty());
  CHECK(
      rig.act("reserve.reserve", "b", {{"key", "2"}, {"type", "exclusive_access_registrants_only"}})
          .empty());
  rig.slow->hold = true;
  const auto victim = rig.start("b", Op::write), other = rig.start("a", Op::read);
  CHECK(rig.act("reserve.preempt_abort", "a",
                {{"key", "1"}, {"new_key", "2"}, {"type", "exclusive_access"}})
            .empty());
  CHECK(victim->completions == 0);  // the disk below may still read its buffer
  const auto late = rig.start("b", Op::write), mine = rig.start("a", Op::write);
  CHECK(rig.slow->held.size() == 2);  // what comes now waits for the old to be over
  rig.slow->hold = false;
  rig.slow->release();
  CHECK((victim->completions == 1 && victim->error == ECANCELED));
  CHECK((other->completions == 1 && other->error == 0));
  CHECK((late->completions == 1 && late->error == EBADE));
  CHECK((mine->completions == 1 && mine->error == 0));
}

TEST_CASE("a plain preempt lets what is in flight end as it does", "[reserve]") {
  ReserveRig rig;
  CHECK(rig.act("reserve.register", "a", {{"new_key", "1"}}).empty());
  CHECK(rig.act("reserve.register", "b", {{"new_key", "2"}}).empty());
  rig.slow->hold = true;
  const auto victim = rig.start("b", Op::write);
  CHECK(rig.act("reserve.preempt", "a", {{"key", "1"}, {"new_key", "2"}}).empty());
  rig.slow->release();
  CHECK((victim->completions == 1 && victim->error == 0));
}

TEST_CASE("what was registered to persist does, the rest does not", "[reserve]") {
  TempDir dir;
  const std::string layer = "reserve:ptpl=" + dir.path("state");
  const auto set_up = [](ReserveRig& rig, bool ptpl) {
    CHECK(rig.act("reserve.register_ignore", "a", {{"new_key", "1"}, {"ptpl", ptpl}}).empty());
    CHECK(rig.act("reserve.reserve", "a", {{"key", "1"}, {"type", "write_exclusive"}}).empty());
  };
  {
    ReserveRig rig(layer);
    set_up(rig, true);
  }
  {
    ReserveRig again(layer);
    CHECK(again.report()["type"] == "write_exclusive");
    CHECK(again.report()["generation"] == 0);
    CHECK(again.start("b", Op::write)->error == EBADE);
    set_up(again, false);  // no longer: what is kept goes
  }
  ReserveRig last(layer);
  CHECK(last.report()["registrants"].empty());
  CHECK(last.start("b", Op::write)->error == 0);
  for (const char* text :
       {"", "{", "{}", R"({"v":2})", R"({"v":1,"registrants":[{"host":"","key":"0x1"}]})",
        R"({"v":1,"registrants":[{"host":"a","key":"0x0"}]})",
        R"({"v":1,"registrants":[],"type":"write_exclusive","holder":"a"})",
        R"({"v":1,"registrants":[],"type":"what"})"}) {
    INFO(text);
    REQUIRE(write_file_atomic(dir.path("state"), text));
    const auto built = last.build(layer);
    REQUIRE_FALSE(built);
    CHECK(built.error().code == Code::invalid);
  }
}

TEST_CASE("when the state cannot be kept, nothing has happened", "[reserve]") {
  TempDir dir;
  ReserveRig rig("reserve:ptpl=" + dir.path("nosuch/state"));
  CHECK(rig.act("reserve.register", "a", {{"new_key", "1"}, {"ptpl", true}}) == "system");
  CHECK(rig.report()["registrants"].empty());
  CHECK(rig.act("reserve.register", "a", {{"new_key", "1"}}).empty());
}
