// SPDX-License-Identifier: MIT
// Files on their way into a guest before its first process runs: a second archive behind the
// initial RAM disk, which the kernel unpacks over the first.
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "guest/key.hpp"

namespace pv::vm {

// Writes the file `to`: `initrd` ("" for none) and behind it an archive with `files`, owned by
// root, with the folders that they need.
Result<> write_initrd(const std::string& initrd, const std::vector<guest::UserFile>& files,
                      const std::string& to, const Deadline& deadline);

}  // namespace pv::vm
