// SPDX-License-Identifier: MIT
// The name of an image in the cache: a hash of all that goes into it, so that equal requests share
// one image and any difference makes another.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace pv::guest {

struct UserFile {
  std::string dest;  // clean, relative
  uint32_t mode = 0644;
  std::string data;
};

// DEST=SRC read into memory. Code::usage for a DEST that is not absolute or has "..",
// Code::system for a SRC that cannot be read.
Result<std::vector<UserFile>> load_user_files(const std::vector<std::string>& specs);

struct Recipe {
  std::vector<std::string> sources;  // identities of the parts
  std::vector<std::string> modules;  // wanted, normalised
  std::vector<UserFile> files;
};

// 32 hexadecimal digits. The order of modules does not matter, that of files does: a later one
// replaces an earlier one of the same DEST.
std::string image_key(const Recipe& recipe);

// XXH3-128 of some bytes.
std::string content_hash(std::string_view bytes);

}  // namespace pv::guest
