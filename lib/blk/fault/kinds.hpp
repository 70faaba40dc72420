// SPDX-License-Identifier: MIT
// The table of fault kinds. A new kind is one file in this folder and one line in kinds.cpp.
#pragma once

#include <memory>
#include <span>

#include "blk/fault/rule.hpp"

namespace pv::blk {

// Makes an action from the `do` object; Code::bad_rule when a key is wrong.
using MakeAction = Result<std::unique_ptr<Action>> (*)(const json& object);

struct KindRow {
  const char* name;
  const char* help;
  const char* keys;  // what `do` holds besides kind
  const char* host;  // what each front end delivers
  const char* nbd;
  MakeAction make;
};

std::span<const KindRow> fault_kinds();

// Code::bad_rule when `object` has a key that is not in `known`; `what` names the object.
Result<> check_keys(const json& object, std::initializer_list<std::string_view> known,
                    std::string_view what);

Result<std::unique_ptr<Action>> make_error_action(const json& object);
Result<std::unique_ptr<Action>> make_delay_action(const json& object);

}  // namespace pv::blk
