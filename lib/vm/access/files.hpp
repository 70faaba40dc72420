// SPDX-License-Identifier: MIT
// Files into the guest and out of it, over data ports, with a shell script at the guest's end
// (scripts.hpp). What has arrived is read a second time: the built-in guest hashes it with a
// program of ours; another sends it back to be hashed here, because under TCG md5sum takes four
// times as long as that. A target appears whole or not at all. Used by the commands.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

struct Transfer {
  std::string guest_path;  // absolute
  std::string host_path;   // "-": our stdin or stdout
  std::optional<unsigned> mode;
  bool check = true;
  uint64_t timeout_ns = 0;
};

// The `transfer` object of a document.
Result<json> put_file(const Object& vm, const Transfer& transfer);

// `print` gets the bytes when the host's path is "-".
using Print = std::function<Result<>(std::string_view bytes)>;
Result<json> get_file(const Object& vm, const Transfer& transfer, const Print& print);

}  // namespace pv::vm
