// SPDX-License-Identifier: MIT
// Removes debug information from a kernel module, by the `strip` program where it is installed.
// Distributions ship modules without any; a module of one's own kernel may be ten times its size.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace pv::guest {

// The module unchanged when there is nothing to remove, or nothing to remove it with.
Result<std::string> strip_module(std::string_view module, const Deadline& deadline);

}  // namespace pv::guest
