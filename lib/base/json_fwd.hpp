// SPDX-License-Identifier: MIT
// The one JSON type of the project: key order is kept, so that documents read as they were written.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace pv {
using json = nlohmann::ordered_json;
}
