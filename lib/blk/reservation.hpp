// SPDX-License-Identifier: MIT
// Persistent reservations of one disk, as rules on plain data: who is registered, who holds what,
// what each service action does to that, and who may read and write. SPC-4 (T10/BSR INCITS 513),
// section 5.12; the numbers of the types are those of its table for the TYPE field. A host stands
// for what the standard calls an I_T nexus.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

enum class ReserveType : uint8_t {
  none = 0,
  write_exclusive = 1,
  exclusive_access = 3,
  write_exclusive_registrants_only = 5,
  exclusive_access_registrants_only = 6,
  write_exclusive_all_registrants = 7,
  exclusive_access_all_registrants = 8,
};
const char* reserve_type_name(ReserveType type);
// Code::usage with the valid names.
Result<ReserveType> reserve_type_from_name(std::string_view name);

enum class ReserveAction : uint8_t {
  register_key,
  register_ignore,
  reserve,
  release,
  clear,
  preempt,
  preempt_abort,
};

// One PERSISTENT RESERVE OUT.
struct ReserveCall {
  ReserveAction action = ReserveAction::register_key;
  std::string host;
  uint64_t key = 0;      // RESERVATION KEY: the one that the host is registered with
  uint64_t new_key = 0;  // SERVICE ACTION RESERVATION KEY
  ReserveType type = ReserveType::none;
  bool ptpl = false;  // register: APTPL
};

class Reservations {
 public:
  struct Registrant {
    std::string host;
    uint64_t key = 0;
  };
  static constexpr size_t k_max_registrants = 256;

  // Code::reservation_conflict (EBADE) or Code::invalid, and then nothing has changed. Returns the
  // hosts whose registrations were taken from them by a preempt.
  Result<std::vector<std::string>> apply(const ReserveCall& call);

  // Whether a request of that kind conflicts (SBC-3, commands allowed in the presence of various
  // reservations). A flush counts as a write, a map as a read.
  bool allows(std::string_view host, Op op) const;

  bool holds(std::string_view host) const;
  uint32_t generation() const { return generation_; }
  bool ptpl() const { return ptpl_; }

  // What a report says.
  json report() const;
  // What outlives a power loss, and back. The generation starts from 0 (SPC-4, PRGENERATION).
  json saved() const;
  static Result<Reservations> from_saved(const json& saved);
  // Everything, the generation too, and back.
  json snapshot() const;
  static Result<Reservations> from_snapshot(const json& snapshot);

 private:
  const Registrant* find_host(std::string_view host) const;
  bool all_registrants() const;
  void set_key(const std::string& host, uint64_t key);
  void settle();
  Result<> register_host(const ReserveCall& call);
  Result<> reserve(const ReserveCall& call);
  Result<> release(const ReserveCall& call);
  Result<std::vector<std::string>> preempt(const ReserveCall& call);

  std::vector<Registrant> registrants_;
  ReserveType type_ = ReserveType::none;
  std::string holder_;  // not for the types of all registrants
  uint32_t generation_ = 0;
  bool ptpl_ = false;
};

// "0x1f"; and from that or a decimal number, Code::usage.
std::string reserve_key_text(uint64_t key);
Result<uint64_t> parse_reserve_key(std::string_view what, std::string_view text);

}  // namespace pv::blk
