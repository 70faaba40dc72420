// SPDX-License-Identifier: MIT
// The few facts that a guest build needs from ELF files: which libraries a program wants, which
// modules a kernel module wants, and whether a kernel can be booted directly. The bytes are
// foreign: every offset is checked. 64-bit little-endian x86 only (elf(5)).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace pv::guest {

struct ElfInfo {
  bool executable = false;          // ET_EXEC; false for ET_DYN and ET_REL
  std::vector<std::string> needed;  // DT_NEEDED, in file order
  std::string interpreter;          // PT_INTERP, "" for a static program or a library
  bool pvh = false;                 // has the Xen PHYS32_ENTRY note: QEMU can -kernel it
};

bool is_elf(std::string_view bytes);

// Code::invalid with a reason when the bytes are no such ELF file or lie outside themselves.
Result<ElfInfo> read_elf(std::string_view bytes);

// Content of the first section with this name; empty when there is none.
Result<std::string_view> elf_section(std::string_view bytes, std::string_view name);

// Values of `key=` in a module's .modinfo section ("depends", "alias", …).
Result<std::vector<std::string>> modinfo(std::string_view module, std::string_view key);

// The module without its appended signature (Linux: Documentation/admin-guide/module-signing.rst);
// unchanged when it has none. An unsigned module loads faster: nothing to verify.
std::string_view without_signature(std::string_view module);

}  // namespace pv::guest
