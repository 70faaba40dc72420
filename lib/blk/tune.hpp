// SPDX-License-Identifier: MIT
// {"op":"layer.set","layer":NAME,"params":{KEY:VALUE,…}}: keys of a layer that may change while it
// runs. The outermost layer of that name answers; values are texts, as --layer takes them.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::blk {

// Whether the request is for a layer called `name`.
bool tunes(const json& request, std::string_view name);

// The keys and values to set; Code::usage for a key that is none of `keys`.
Result<std::map<std::string, std::string>> tune_params(const json& request,
                                                       std::initializer_list<const char*> keys);

}  // namespace pv::blk
