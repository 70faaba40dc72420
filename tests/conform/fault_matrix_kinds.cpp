// SPDX-License-Identifier: MIT
// The oracles: what a client must see, and what must be on the medium, when a kind fires at a
// request. They work from the rule's document and know nothing of the actions.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <initializer_list>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "fault_matrix.hpp"

namespace pv::test::matrix {
namespace {

constexpr uint64_t k_ms = k_ns_per_ms;

template <int k_errno>
void fails(World&, const Ask&, const Occasion&, Answer& answer) {
  answer.status = k_errno;
}

// Up to the sector of the first bad byte all is well.
void fails_behind_the_good_part(World& world, const Ask& ask, const Occasion& at, Answer& answer) {
  uint64_t bad = UINT64_MAX;
  for (const json& range : at.rule["match"]["ranges"]) {
    const uint64_t begin = range[0], end = begin + range[1].get<uint64_t>();
    if (begin < ask.offset + ask.length && end > ask.offset)
      bad = std::min(bad, std::max(begin, ask.offset));
  }
  const uint64_t good = bad / 512 * 512 - ask.offset;
  if (ask.op == Op::write) {
    world.write(ask.offset, std::string_view(ask.data).substr(0, good), ask.flags);
    put(world.honest, ask.offset, std::string_view(ask.data).substr(0, good));
  }
  answer.status = EIO;
}

template <uint64_t k_ns>
void waits(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  answer.wait_ns = k_ns;
}

void waits_by_trace(World& world, const Ask& ask, const Occasion& at, Answer& answer) {
  world.pass(ask, answer);
  answer.wait_ns = at.match % 2 == 1 ? 1 * k_ms : 2 * k_ms + k_ms / 2;
}

void waits_by_chance(World& world, const Ask& ask, const Occasion& at, Answer& answer) {
  world.pass(ask, answer);
  answer.wait_ns = static_cast<uint64_t>((1 + at.chance.unit(1) * 2) * static_cast<double>(k_ms));
}

// 500 a second: each costs 2 ms.
void waits_for_its_turn(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  world.free_ns = std::max(world.free_ns, world.now_ns);
  answer.wait_ns = world.free_ns - world.now_ns;
  world.free_ns += 2 * k_ms;
}

void is_held(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  answer.held = true;
}

// The medium says that a discard makes zeroes.
void is_dropped(World& world, const Ask& ask, const Occasion&, Answer&) {
  world.acknowledge(ask);
}

void loses_fua(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  Ask without = ask;
  without.flags &= ~k_fua;
  world.pass(without, answer);
}

template <uint64_t k_from, uint64_t k_bytes>
void is_written_in_part(World& world, const Ask& ask, const Occasion&, Answer&) {
  const std::string bytes = ask.bytes();
  const uint64_t from = k_from == UINT64_MAX ? bytes.size() - k_bytes : k_from;
  world.write(ask.offset + from, std::string_view(bytes).substr(from, k_bytes), ask.flags);
  world.acknowledge(ask);
}

// Each sector is the old or the new one, and not all are new.
void is_torn_by_chance(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  answer.judge = [&world, ask](const Flight&, const std::string& medium) -> std::string {
    const std::string bytes = ask.bytes();
    uint64_t kept = 0;
    for (uint64_t at = 0; at < ask.length; at += 512) {
      const std::string_view now = std::string_view(medium).substr(ask.offset + at, 512);
      if (now != std::string_view(bytes).substr(at, 512)) continue;
      kept += 512;
      world.write(ask.offset + at, now, ask.flags);
    }
    return kept == ask.length ? "nothing is torn" : "";
  };
  world.acknowledge(ask);
}

void is_read_in_part(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  answer.data = world.shown.substr(ask.offset, 1024) + std::string(ask.length - 1024, '\0');
}

uint64_t elsewhere(const Ask& ask) {
  const uint64_t place = ask.offset + k_shift;
  return place + ask.length <= k_size ? place : 0;
}

void is_written_elsewhere(World& world, const Ask& ask, const Occasion&, Answer&) {
  world.write(elsewhere(ask), ask.data, ask.flags);
  world.acknowledge(ask);
}

void is_read_elsewhere(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  answer.data = world.shown.substr(elsewhere(ask), ask.length);
}

// Where two pieces of data differ: bits, bytes, and how many bytes lie between the first and last.
std::string count_damage(std::string_view right, std::string_view wrong, uint64_t bits,
                         uint64_t bytes) {
  uint64_t wrong_bits = 0, wrong_bytes = 0, first = UINT64_MAX, last = 0;
  for (uint64_t i = 0; i < right.size(); ++i) {
    const auto damage = static_cast<uint8_t>(right[i] ^ wrong[i]);
    if (damage == 0) continue;
    first = std::min(first, i);
    last = i;
    ++wrong_bytes;
    wrong_bits += static_cast<uint64_t>(std::popcount(damage));
  }
  if (bits != 0 && wrong_bits != bits) return fmt::format("{} bits are damaged", wrong_bits);
  if (bytes != 0 && wrong_bytes != bytes) return fmt::format("{} bytes are damaged", wrong_bytes);
  return last - first < 512 ? "" : "the damage is in more than one sector";
}

template <uint64_t k_bits, uint64_t k_bytes>
void is_damaged_by_chance(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  const std::string right =
      ask.op == Op::read ? world.shown.substr(ask.offset, ask.length) : ask.data;
  answer.judge = [&world, ask, right](const Flight& flight, const std::string& medium) {
    const std::string wrong =
        ask.op == Op::read ? flight.data : medium.substr(ask.offset, ask.length);
    if (ask.op == Op::write) world.write(ask.offset, wrong, ask.flags);
    return count_damage(right, wrong, k_bits, k_bytes);
  };
  world.acknowledge(ask);
}

// zeroes, ones, or what is at k_shift: 512 bytes of it, at byte 256.
template <char k_pattern>
void is_damaged(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  std::string data = ask.op == Op::read ? world.shown.substr(ask.offset, ask.length) : ask.data;
  data.replace(256, 512,
               k_pattern == 'f' ? world.shown.substr(k_shift, 512)
                                : std::string(512, k_pattern == '0' ? '\0' : '\xff'));
  if (ask.op == Op::write) world.write(ask.offset, data, ask.flags);
  answer.data = data;
  world.acknowledge(ask);
}

// Everything changes once after the rule has come.
void rewrite_everything(Cell& cell) {
  cell.world.old = cell.world.shown;
  Ask all;
  all.op = Op::write;
  all.length = k_shift;
  all.data = random_bytes(cell.rng, all.length);
  cell.ask(all);
}

void is_stale(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  answer.data = world.old.substr(ask.offset, ask.length);
}

void lands_late(World& world, const Ask& ask, const Occasion&, Answer&) {
  world.late.push_back({world.now_ns + 3 * k_ms, ask.offset, ask.data});
  world.acknowledge(ask);
}

void lands_twice(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  world.late.push_back({world.now_ns + 100 * k_ms, ask.offset, ask.data});
}

// Healthy writes everywhere, which are buried by what lands behind them.
void land_over_healthy_write(Cell& cell) {
  cell.clear(false);
  Ask healthy;
  healthy.op = Op::write;
  healthy.length = k_shift;
  healthy.data = random_bytes(cell.rng, healthy.length);
  cell.ask(healthy);
  cell.advance(100 * k_ms);
}

void is_done_and_fails(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  answer.status = EIO;
}

template <bool k_survive>
void loses_power(World& world, const Ask&, const Occasion&, Answer& answer) {
  answer.status = ENODEV;
  if (world.fired > 1) return;
  if (k_survive)
    world.stable = world.shown;
  else
    world.honest = world.shown = world.stable;
}

// It is carried out, and the client is alone.
void is_cut_off(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  answer.status = ENOTCONN;
  answer.wire = "DISCONNECTED";
}

// libnbd takes an error that is none for EINVAL.
void is_answered_wrongly(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
  answer.status = EINVAL;
  answer.wire = "VIOLATION";
}

void passes(World& world, const Ask& ask, const Occasion&, Answer& answer) {
  world.pass(ask, answer);
}

// One sector in the middle of every place where a request may be.
constexpr const char* k_bad_sectors =
    R"({"ranges":[[17508,300],[33892,300],[50276,300],[66660,300],[83044,300],[99428,300],)"
    R"([115812,300],[132196,300],[148580,300]]})";

std::vector<Subject> make_subjects() {
  using S = Subject;
  std::vector<Subject> all;
  const auto add = [&](const char* kind, const char* variant, std::initializer_list<Op> ops,
                       const char* action, auto fire) -> S* {
    for (const Op op : ops) all.push_back({kind, variant, op, action, fire});
    return &all.back();
  };
  static constexpr std::initializer_list<Op> k_rw = {Op::read, Op::write};
  static constexpr std::initializer_list<Op> k_change = {Op::write, Op::zero, Op::discard};
  add("error", "", {Op::read, Op::flush, Op::discard, Op::map, Op::cache}, R"({"errno":"EIO"})",
      fails<EIO>);
  add("error", "nospace", {Op::write, Op::zero}, R"({"errno":"ENOSPC"})", fails<ENOSPC>);
  add("error", "prefix", {Op::write}, R"({"prefix":true})", fails_behind_the_good_part)->match =
      k_bad_sectors;
  add("medium", "", {Op::read}, "{}", fails_behind_the_good_part)->match = k_bad_sectors;
  add("read_only", "", k_change, "{}", fails<EROFS>);
  add("capacity", "", {Op::read, Op::write, Op::discard}, R"({"size_bytes":512})", fails<ERANGE>);
  for (const Op op : {Op::read, Op::write, Op::flush})
    add("gone", "", {op}, "{}", fails<ENODEV>)->latches = true;
  const size_t delays = all.size();
  add("delay", "", {Op::read, Op::write, Op::flush}, R"({"delay_ms":2})", waits<2 * k_ms>);
  add("jitter", "trace", k_rw, R"({"distribution":"trace","values_ms":[1,2.5]})", waits_by_trace);
  add("jitter", "uniform", k_rw, R"({"min_ms":1,"max_ms":3})", waits_by_chance);
  for (const Op op : k_rw)
    add("rate", "", {op}, R"({"iops":500})", waits_for_its_turn)->telling = 3;
  add("stall", "", {Op::read, Op::write, Op::flush}, "{}", is_held);
  add("reorder", "", k_rw, R"({"max_ms":2})", waits<2 * k_ms>);
  for (size_t i = delays; i < all.size(); ++i) all[i].waits = true;
  add("drop_write", "", k_change, "{}", is_dropped);
  add("drop_flush", "", {Op::flush}, "{}", is_dropped);
  for (const Op op : k_change) add("drop_fua", "", {op}, "{}", loses_fua)->flags = k_fua;
  add("torn_write", "first", {Op::write, Op::zero}, R"({"units":3})", is_written_in_part<0, 1536>);
  add("torn_write", "last", {Op::write}, R"({"keep":"last","units":2,"unit_bytes":1024})",
      is_written_in_part<UINT64_MAX, 2048>);
  add("torn_write", "random", {Op::write}, R"({"keep":"random"})", is_torn_by_chance);
  add("short", "", {Op::read}, R"({"bytes":1024})", is_read_in_part);
  add("short", "", {Op::write}, R"({"bytes":1024})", is_written_in_part<0, 1024>);
  add("misdirect_write", "", {Op::write}, R"({"shift_bytes":262144})", is_written_elsewhere);
  add("misdirect_read", "", {Op::read}, R"({"shift_bytes":262144})", is_read_elsewhere);
  for (const auto& [kind, op] :
       {std::pair{"corrupt_read", Op::read}, std::pair{"corrupt_write", Op::write}}) {
    add(kind, "bit", {op}, R"({"count":3})", is_damaged_by_chance<3, 0>);
    add(kind, "byte", {op}, R"({"pattern":"byte","count":2})", is_damaged_by_chance<0, 2>);
    add(kind, "zeroes", {op}, R"({"pattern":"zeroes","at":256,"length_bytes":512})",
        is_damaged<'0'>);
    add(kind, "ones", {op}, R"({"pattern":"ones","at":256,"length_bytes":512})", is_damaged<'1'>);
    add(kind, "foreign", {op},
        R"({"pattern":"foreign","at":256,"length_bytes":512,"from_bytes":262144})",
        is_damaged<'f'>);
  }
  add("stale_read", "", {Op::read}, "{}", is_stale)->prepare = rewrite_everything;
  add("late_write", "", {Op::write}, R"({"after_ms":3})", lands_late)->finish =
      land_over_healthy_write;
  add("duplicate_write", "", {Op::write}, "{}", lands_twice)->finish = land_over_healthy_write;
  add("fail_written", "", {Op::write, Op::zero, Op::discard, Op::flush}, "{}", is_done_and_fails);
  for (const Op op : {Op::read, Op::write, Op::flush}) {
    S* cut = add("power_cut", "", {op}, "{}", loses_power<false>);
    cut->latches = cut->cached = true;
  }
  S* cut = add("power_cut", "survivors", {Op::write}, R"({"survivors":"all"})", loses_power<true>);
  cut->latches = cut->cached = true;
  for (const Op op : {Op::read, Op::write, Op::flush}) {
    add("disconnect", "", {op}, "{}", is_cut_off)->wire = true;
    add("violate", "", {op}, R"({"what":"error_code"})", is_answered_wrongly)->wire = true;
  }
  add("mark", "", {Op::read, Op::write, Op::flush}, "{}", passes);
  return all;
}

}  // namespace

std::string Subject::name() const {
  return fmt::format("{}{}{} {}", kind, *variant == '\0' ? "" : " ", variant, op_name(op));
}

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all = make_subjects();
  return all;
}

}  // namespace pv::test::matrix
