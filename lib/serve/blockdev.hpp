// SPDX-License-Identifier: MIT
// Images as qemu-storage-daemon wants them: --blockdev objects, from paths and from URIs.
#pragma once

#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "blk/uri.hpp"

namespace pv::serve {

// The node that holds the bytes of an image behind a URI that QEMU opens. Code::usage for an
// unknown scheme, with the known ones, and for parts that are missing.
Result<json> blockdev_of_uri(const std::string& text);

// Whether a URI's scheme can only be read.
bool is_read_only_scheme(std::string_view scheme);

struct NodeOptions {
  std::string format;  // the driver of the format
  bool read_only = false;
  bool direct = false;  // past the page cache
  bool key = false;     // the secret of id k_secret_id opens it
};
constexpr const char* k_secret_id = "key";
constexpr const char* k_node_name = "disk";

// The whole tree in one object, the format on top of `file`.
json blockdev_of_image(json file, const NodeOptions& options);

// Checks what the user gave as --blockdev and makes it ours: a node name of our own, read-only
// where asked. Code::usage for anything but an object with a driver.
Result<json> blockdev_of_user(const std::string& text, bool read_only);

}  // namespace pv::serve
