// SPDX-License-Identifier: MIT
// The table of fault kinds. A new kind is one file in kind/ and one line in kinds.cpp.
#pragma once

#include <memory>
#include <span>

#include "blk/fault/keys.hpp"
#include "blk/fault/rule.hpp"

namespace pv::blk {

// Makes an action from the `do` object; Code::bad_rule when a key is wrong, Code::unsupported when
// this disk cannot do it.
using MakeAction = Result<std::unique_ptr<Action>> (*)(const json& object,
                                                       const RuleGround& ground);

struct KindRow {
  const char* name;
  const char* help;
  const char* keys;  // what `do` holds besides kind
  const char* host;  // what each front end delivers
  const char* nbd;
  const char* guest;  // virtio-blk in QEMU over NBD, Linux
  const char* vhost;  // vhost-user-blk, Linux
  MakeAction make;
};

std::span<const KindRow> fault_kinds();

Result<std::unique_ptr<Action>> make_capacity(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_corrupt_read(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_corrupt_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_delay(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_disconnect(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_drop_flush(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_drop_fua(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_drop_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_duplicate_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_error(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_fail_written(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_gone(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_jitter(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_late_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_mark(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_medium(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_misdirect_read(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_misdirect_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_power_cut(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_rate(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_read_only(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_reorder(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_short(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_stale_read(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_stall(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_torn_write(const json& object, const RuleGround& ground);
Result<std::unique_ptr<Action>> make_violate(const json& object, const RuleGround& ground);

}  // namespace pv::blk
