// SPDX-License-Identifier: MIT
// What has become of bytes that are not what they should be. Bytes in, class out: nothing here
// reads a disk or knows where the candidates come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace pv::verify {

enum class Damage : uint8_t { none, stale, zeroed, misdirected, torn, bit_flip, other };

// "stale", …
const char* damage_name(Damage damage);

constexpr size_t k_unit = 512;  // what a medium writes as a whole

struct Verdict {
  Damage damage = Damage::none;
  size_t candidate = SIZE_MAX;  // stale, torn: in `older` (SIZE_MAX: zeroes); misdirected: in
                                // `elsewhere`
  uint64_t bits = 0;            // that differ from what is expected
  uint64_t units = 0;           // sectors, or parts of sectors, that are not as expected
};

// `offset` is where on the disk the bytes are, so that sectors are seen as such. `older` are
// earlier contents of the same place, the latest first; `elsewhere` what belongs to other places.
// Candidates of another length are not considered. The order of the classes is that of the
// enumeration: what is exactly an earlier content is stale, also where that was zeroes.
Verdict classify(uint64_t offset, std::string_view expected, std::string_view actual,
                 std::span<const std::string_view> older = {},
                 std::span<const std::string_view> elsewhere = {});

// Number of bits in which two strings of the same length differ.
uint64_t differing_bits(std::string_view a, std::string_view b);

bool all_zero(std::string_view bytes);

}  // namespace pv::verify
