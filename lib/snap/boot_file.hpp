// SPDX-License-Identifier: MIT
// The files that a snapshot needs besides its own: kernel and initial RAM disk, which QEMU reads
// when it starts and a guest when it is reset. They stay where they are and are known again.
#pragma once

#include <string>

#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::snap {

// [{"key":"kernel","path","size_bytes","mtime_ns","xxh3"}…] of a "hardware"; a path that is not
// absolute is a file of the snapshot itself.
Result<json> boot_files(const json& hardware);

// Code::incompatible, with key `differs`, for one that is gone or another.
Result<> check_boot_files(const json& files);

}  // namespace pv::snap
