// SPDX-License-Identifier: MIT
// The whole of the project's JSON type, for sources and for headers that hold or return one by
// value; base/json_fwd.hpp is enough to name it.
#pragma once

#include <nlohmann/json.hpp>

#include "base/json_fwd.hpp"
