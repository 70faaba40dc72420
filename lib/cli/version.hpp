// SPDX-License-Identifier: MIT
#pragma once

#include "base/version.hpp"

namespace pv::cli {
using pv::k_version;
}
