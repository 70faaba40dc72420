// SPDX-License-Identifier: MIT
// The files that a saved overlay stands on. They are not part of the snapshot; by path, size, time
// and inode it is known whether they are still what they were.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "blk/params.hpp"
#include "serve/spec.hpp"

namespace pv::serve {

// Of a disk with these layers, all that is below the first cow layer and not saved itself:
// [{"path","size_bytes","mtime_ns","ino"}]. `saved`: which layers' overlays are.
Result<json> base_files(const Spec& spec, const std::vector<blk::LayerSpec>& layers,
                        const std::vector<std::pair<size_t, std::string>>& saved);

// Code::incompatible, with what differs, when one is not as it was; Code::snapshot_corrupt when
// `files` is not what base_files() says.
Result<> check_base_files(const json& files);

}  // namespace pv::serve
