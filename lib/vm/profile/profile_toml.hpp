// SPDX-License-Identifier: MIT
// Reads the profiles of a provium.toml (provium.toml(5)). The file is a person's: whatever is wrong
// with it is one line "FILE:LINE:COLUMN: …", Code::invalid.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "vm/profile/profile.hpp"

namespace pv::vm {

// `path` is absolute; relative paths in the text are relative to its folder.
Result<std::vector<Profile>> parse_profiles(std::string_view text, const std::string& path);

Result<std::vector<Profile>> read_profiles(const std::string& path);

}  // namespace pv::vm
