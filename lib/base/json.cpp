// SPDX-License-Identifier: MIT
// The one place where the members of the JSON type are compiled.
#include "base/json.hpp"

template class nlohmann::basic_json<nlohmann::ordered_map>;
