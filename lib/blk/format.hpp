// SPDX-License-Identifier: MIT
// Image formats. A format is what the user says, else what the file's extension says if the magic
// agrees. It is never probed: a guest could have written any header into its raw disk.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace pv::blk {

// "raw", or the name of the driver that qemu-storage-daemon opens it with ("qcow2", …).
// `given` is --format ("" when absent). Code::usage for an unknown name, Code::invalid when the
// content contradicts the extension or looks like a format that nobody has named.
Result<std::string> choose_format(const std::string& path, int fd, std::string_view given);

// What the extension alone says; "raw" when it says nothing.
std::string format_of_extension(const std::string& path);

std::vector<std::string> known_formats();

// Formats that QEMU only reads.
bool is_read_only_format(std::string_view format);
// Formats that may be encrypted with a key of the user's (luks always is).
bool takes_key(std::string_view format);

}  // namespace pv::blk
