// SPDX-License-Identifier: MIT
// The one place where the members of our JSON type are compiled (see pch.hpp).
#include <nlohmann/json.hpp>

template class nlohmann::basic_json<nlohmann::ordered_map>;
