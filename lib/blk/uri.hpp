// SPDX-License-Identifier: MIT
// Sources that are not paths, taken apart (RFC 3986). What the parts mean is for others to say.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace pv::blk {

struct Uri {
  std::string scheme;  // lower case
  std::string user, host, port, path;
  std::map<std::string, std::string> query;  // decoded, as user, host and path are
};

// Whether the text names a source by a scheme: SCHEME://…, or rbd:… A file of such a name is ./….
bool is_uri(std::string_view text);

// Code::usage for what is malformed, and for a password: it would be seen in the process list.
Result<Uri> parse_uri(std::string_view text);

}  // namespace pv::blk
