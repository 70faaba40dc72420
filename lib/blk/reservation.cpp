// SPDX-License-Identifier: MIT
#include "blk/reservation.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::blk {
namespace {

struct TypeRow {
  ReserveType type;
  const char* name;
};
constexpr TypeRow k_types[] = {
    {ReserveType::write_exclusive, "write_exclusive"},
    {ReserveType::exclusive_access, "exclusive_access"},
    {ReserveType::write_exclusive_registrants_only, "write_exclusive_registrants_only"},
    {ReserveType::exclusive_access_registrants_only, "exclusive_access_registrants_only"},
    {ReserveType::write_exclusive_all_registrants, "write_exclusive_all_registrants"},
    {ReserveType::exclusive_access_all_registrants, "exclusive_access_all_registrants"},
};

bool reads_only(Op op) {
  return op == Op::read || op == Op::map || op == Op::cache;
}

bool excludes_reads(ReserveType type) {
  return type == ReserveType::exclusive_access ||
         type == ReserveType::exclusive_access_registrants_only ||
         type == ReserveType::exclusive_access_all_registrants;
}

bool is_all_registrants(ReserveType type) {
  return type == ReserveType::write_exclusive_all_registrants ||
         type == ReserveType::exclusive_access_all_registrants;
}

tl::unexpected<Error> conflict(std::string text) {
  return fail(Code::reservation_conflict, std::move(text), EBADE);
}

}  // namespace

const char* reserve_type_name(ReserveType type) {
  for (const TypeRow& row : k_types)
    if (row.type == type) return row.name;
  return "none";
}

Result<ReserveType> reserve_type_from_name(std::string_view name) {
  std::vector<std::string> known;
  for (const TypeRow& row : k_types) {
    if (row.name == name) return row.type;
    known.emplace_back(row.name);
  }
  return fail(Error(Code::usage, fmt::format("unknown type of reservation '{}' (types: {})", name,
                                             join(known, " ")))
                  .with("valid", known));
}

std::string reserve_key_text(uint64_t key) {
  return fmt::format("{:#x}", key);
}

Result<uint64_t> parse_reserve_key(std::string_view what, std::string_view text) {
  const bool hex = text.substr(0, 2) == "0x" || text.substr(0, 2) == "0X";
  const std::string_view digits = hex ? text.substr(2) : text;
  uint64_t key = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), key, hex ? 16 : 10);
  if (error == std::errc() && end == digits.data() + digits.size()) return key;
  return fail(Code::usage, fmt::format("{} '{}' is not a number of 64 bits", what, text));
}

const Reservations::Registrant* Reservations::find_host(std::string_view host) const {
  for (const Registrant& known : registrants_)
    if (known.host == host) return &known;
  return nullptr;
}

bool Reservations::all_registrants() const {
  return is_all_registrants(type_);
}

bool Reservations::holds(std::string_view host) const {
  if (type_ == ReserveType::none || find_host(host) == nullptr) return false;
  return all_registrants() || holder_ == host;
}

bool Reservations::allows(std::string_view host, Op op) const {
  if (type_ == ReserveType::none || (reads_only(op) && !excludes_reads(type_))) return true;
  const bool alone =
      type_ == ReserveType::write_exclusive || type_ == ReserveType::exclusive_access;
  return alone ? holds(host) : find_host(host) != nullptr;
}

// A reservation lives as long as a holder is registered.
void Reservations::settle() {
  const bool held = all_registrants() ? !registrants_.empty() : find_host(holder_) != nullptr;
  if (held && type_ != ReserveType::none) return;
  type_ = ReserveType::none;
  holder_.clear();
}

void Reservations::set_key(const std::string& host, uint64_t key) {
  const auto known = std::find_if(registrants_.begin(), registrants_.end(),
                                  [&](const Registrant& r) { return r.host == host; });
  if (key == 0) {
    if (known != registrants_.end()) registrants_.erase(known);
    return settle();
  }
  if (known != registrants_.end())
    known->key = key;
  else
    registrants_.push_back({host, key});
}

Result<std::vector<std::string>> Reservations::apply(const ReserveCall& call) {
  if (call.host.empty())
    return fail(Code::usage, "a reservation is made by a host: say which (--host-key)");
  const Registrant* self = find_host(call.host);
  if (call.action == ReserveAction::register_key || call.action == ReserveAction::register_ignore) {
    TRY(register_host(call));
    return std::vector<std::string>{};
  }
  // 5.12.7 to 5.12.11: all else is for registered hosts that know their key.
  if (self == nullptr) return conflict(fmt::format("host '{}' is not registered", call.host));
  if (self->key != call.key)
    return conflict(fmt::format("host '{}' is registered with another key", call.host));
  if (call.action == ReserveAction::preempt || call.action == ReserveAction::preempt_abort)
    return preempt(call);
  if (call.action == ReserveAction::reserve) TRY(reserve(call));
  if (call.action == ReserveAction::release) TRY(release(call));
  if (call.action == ReserveAction::clear) {
    registrants_.clear();
    settle();
    ++generation_;
  }
  return std::vector<std::string>{};
}

// 5.12.7, and its table of register behaviours.
Result<> Reservations::register_host(const ReserveCall& call) {
  const Registrant* self = find_host(call.host);
  const uint64_t current = self ? self->key : 0;
  if (call.action == ReserveAction::register_key && call.key != current)
    return conflict(self ? fmt::format("host '{}' is registered with another key", call.host)
                         : fmt::format("host '{}' is not registered", call.host));
  if (self == nullptr && call.new_key == 0) return {};
  if (self == nullptr && registrants_.size() >= k_max_registrants)
    return fail(Code::invalid, fmt::format("more than {} registrants", k_max_registrants));
  set_key(call.host, call.new_key);
  ptpl_ = call.ptpl;
  ++generation_;
  return {};
}

// 5.12.9
Result<> Reservations::reserve(const ReserveCall& call) {
  if (call.type == ReserveType::none) return fail(Code::usage, "reserve needs a type");
  if (type_ != ReserveType::none && !holds(call.host))
    return conflict("another host holds a reservation");
  if (type_ != ReserveType::none && type_ != call.type)
    return conflict(fmt::format("host '{}' holds a reservation of another type ({})", call.host,
                                reserve_type_name(type_)));
  type_ = call.type;
  holder_ = all_registrants() ? "" : call.host;
  return {};
}

// 5.12.11.2: from a host that holds nothing it succeeds and does nothing.
Result<> Reservations::release(const ReserveCall& call) {
  if (!holds(call.host)) return {};
  if (call.type != type_)
    return fail(Code::invalid, fmt::format("the reservation is of type {}, not {}",
                                           reserve_type_name(type_), reserve_type_name(call.type)));
  type_ = ReserveType::none;
  holder_.clear();
  return {};
}

// 5.12.11.4: of the reservation, where the key is its holder's (or 0, of all registrants); of
// registrations only, where it is another's.
Result<std::vector<std::string>> Reservations::preempt(const ReserveCall& call) {
  const Registrant* holder = find_host(holder_);
  const bool whole = all_registrants() && call.new_key == 0;
  const bool takes =
      whole || (type_ != ReserveType::none && !all_registrants() && holder->key == call.new_key);
  if (!whole && call.new_key == 0)
    return fail(Code::invalid, "preempt needs the key of those to preempt");
  if (takes && call.type == ReserveType::none) return fail(Code::usage, "preempt needs a type");
  const auto meant = [&](const Registrant& r) {
    return (whole || r.key == call.new_key) && !(takes && r.host == call.host);
  };
  const auto has_key = [&](const Registrant& r) { return r.key == call.new_key; };
  if (!whole && std::none_of(registrants_.begin(), registrants_.end(), has_key))
    return conflict("no host is registered with the key to preempt");
  std::vector<std::string> victims;
  for (const Registrant& r : registrants_)
    if (meant(r)) victims.push_back(r.host);
  registrants_.erase(std::remove_if(registrants_.begin(), registrants_.end(), meant),
                     registrants_.end());
  if (takes) {
    type_ = call.type;
    holder_ = all_registrants() ? "" : call.host;
  }
  settle();
  ++generation_;
  return victims;
}

json Reservations::report() const {
  json registrants = json::array();
  for (const Registrant& r : registrants_)
    registrants.push_back(
        {{"host", r.host}, {"key", reserve_key_text(r.key)}, {"holds", holds(r.host)}});
  json types = json::array();
  for (const TypeRow& row : k_types) types.push_back(row.name);
  return {{"generation", generation_},
          {"type", type_ == ReserveType::none ? json(nullptr) : json(reserve_type_name(type_))},
          {"holder", holder_.empty() ? json(nullptr) : json(holder_)},
          {"registrants", registrants},
          {"ptpl", ptpl_},
          {"types", types}};
}

json Reservations::saved() const {
  json registrants = json::array();
  for (const Registrant& r : registrants_)
    registrants.push_back({{"host", r.host}, {"key", reserve_key_text(r.key)}});
  return {{"v", 1},
          {"type", reserve_type_name(type_)},
          {"holder", holder_},
          {"registrants", registrants}};
}

Result<Reservations> Reservations::from_saved(const json& saved) {
  const auto bad = [](const char* what) {
    return fail(Code::invalid, fmt::format("no reservations are saved there: {}", what));
  };
  Reservations made;
  const json* rows = pv::find(saved, "registrants");
  if (get_u64(saved, "v") != 1 || !rows || !rows->is_array()) return bad("not of version 1");
  if (rows->size() > k_max_registrants) return bad("too many registrants");
  for (const json& row : *rows) {
    const std::string host = get_string(row, "host");
    const auto key = parse_reserve_key("key", get_string(row, "key"));
    if (!check_name("host", host) || !key || *key == 0 || made.find_host(host))
      return bad("a registrant is malformed");
    made.registrants_.push_back({host, *key});
  }
  if (const std::string type = get_string(saved, "type"); type != "none") {
    const auto known = reserve_type_from_name(type);
    if (!known) return bad("an unknown type");
    made.type_ = *known;
    made.holder_ = get_string(saved, "holder");
    const Reservations before = made;
    made.settle();
    if (made.type_ != before.type_) return bad("the holder is not registered");
  }
  made.ptpl_ = true;
  return made;
}

json Reservations::snapshot() const {
  json all = saved();
  all["generation"] = generation_;
  all["ptpl"] = ptpl_;
  return all;
}

Result<Reservations> Reservations::from_snapshot(const json& snapshot) {
  TRY_ASSIGN(Reservations made, from_saved(snapshot));
  made.generation_ = static_cast<uint32_t>(get_u64(snapshot, "generation"));
  made.ptpl_ = get_bool(snapshot, "ptpl");
  return made;
}

}  // namespace pv::blk
