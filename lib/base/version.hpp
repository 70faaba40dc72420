// SPDX-License-Identifier: MIT
#pragma once

namespace pv {
constexpr const char* k_version = "0.1.0";
}
