// SPDX-License-Identifier: MIT
// One image in the cache: its manifest, whether it is whole, and the names that lead to it.
#pragma once

#include <optional>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "guest/cache.hpp"
#include "guest/guest.hpp"

namespace pv::guest {

// The image under this key if it is whole: manifest readable, both files of the size it states.
std::optional<Image> whole_image(const Cache& cache, const std::string& key);

// Points `name` to `key`; a reader sees the old or the new image.
Result<> set_name(const Cache& cache, const std::string& name, const std::string& key);

Result<json> read_manifest(const std::string& image_dir);

}  // namespace pv::guest
