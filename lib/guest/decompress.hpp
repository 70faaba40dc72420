// SPDX-License-Identifier: MIT
// The compressions that kernels and their modules come in. LZ4 (legacy frame) and gzip are undone
// here; xz and zstd by the program of that name, where it is installed. The bytes are foreign: a
// stream that wants more than `max_bytes` is refused before the memory is taken.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace pv::guest {

enum class Compression { none, lz4_legacy, gzip, xz, zstd };

// By the first bytes.
Compression detect_compression(std::string_view bytes);

// The whole unpacked content. Code::invalid for broken data, Code::unavailable when the program
// for it is missing. Bytes with no known magic come back unchanged.
Result<std::string> decompress(std::string_view bytes, size_t max_bytes, const Deadline& deadline);

}  // namespace pv::guest
