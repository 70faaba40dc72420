// SPDX-License-Identifier: MIT
#pragma once

namespace pv::cli {
constexpr const char* k_version = "0.1.0";
}
