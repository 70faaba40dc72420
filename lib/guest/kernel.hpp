// SPDX-License-Identifier: MIT
// Kernel images: what version one is, and the plain ELF kernel inside a bzImage. Booted directly
// (PVH), the ELF kernel skips its own decompressor, which takes long under TCG. Foreign bytes,
// every offset checked (Linux: Documentation/arch/x86/boot.rst).
#pragma once

#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace pv::guest {

struct Kernel {
  std::string bytes;    // what to give to QEMU
  std::string version;  // "6.1.0-…"; "" when the file does not say
  bool pvh = false;     // bytes are an ELF kernel, else the bzImage as it came
  std::string note;     // why it stayed a bzImage
};

// From the bytes of a bzImage or vmlinux; Code::invalid when it is neither, or a vmlinux that
// cannot be booted directly.
Result<Kernel> load_kernel(std::string bytes, const Deadline& deadline);

// Version from the header of a bzImage or the banner of a vmlinux; "" when there is none.
std::string kernel_version(std::string_view bytes);

}  // namespace pv::guest
