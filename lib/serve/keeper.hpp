// SPDX-License-Identifier: MIT
// The process that starts a disk's server again when it was killed or has crashed (--restart). It
// does nothing else, owns the server, and ends with it when that ends by itself.
#pragma once

#include <functional>
#include <string>

#include "base/fd.hpp"

namespace pv::serve {

// Left in a disk's directory by who closes it: its server is not started again.
constexpr const char* k_closing_file = "closing";

// Runs `serve` in a child; `again`: one before it has died. The first child alone has `ready`.
// Returns the exit status of the last.
int keep_serving(const std::string& dir, Fd& ready, const std::function<int(bool again)>& serve);

}  // namespace pv::serve
