// SPDX-License-Identifier: MIT
#include "guest/elf.hpp"

#include <cstring>
#include <elf.h>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_strings = 4096;       // names of one table that we are ready to read
constexpr uint32_t k_xen_phys32_entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY (xen/elfnote.h)

// A window of the file; empty when any byte of it would lie outside.
std::string_view window(std::string_view bytes, uint64_t offset, uint64_t length) {
  if (offset > bytes.size() || length > bytes.size() - offset) return {};
  return bytes.substr(offset, length);
}

// Copies a structure out, because the file gives no promise about alignment.
template <class T>
bool read_at(std::string_view bytes, uint64_t offset, T& value) {
  const std::string_view from = window(bytes, offset, sizeof value);
  if (from.size() != sizeof value) return false;
  std::memcpy(&value, from.data(), sizeof value);
  return true;
}

// The NUL-terminated string at `offset`; nullopt when it does not end inside the table.
std::optional<std::string> c_string(std::string_view table, uint64_t offset) {
  if (offset >= table.size()) return std::nullopt;
  const std::string_view rest = table.substr(offset);
  const size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(rest.substr(0, end));
}

tl::unexpected<Error> bad(const char* why) {
  return fail(Code::invalid, fmt::format("bad ELF file: {}", why));
}

Result<Elf64_Ehdr> read_header(std::string_view bytes) {
  Elf64_Ehdr header{};
  if (!is_elf(bytes)) return bad("no ELF magic");
  if (!read_at(bytes, 0, header)) return bad("cut off");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    return bad("not for 64-bit x86");
  return header;
}

Result<std::vector<Elf64_Phdr>> read_segments(std::string_view bytes, const Elf64_Ehdr& header) {
  std::vector<Elf64_Phdr> segments;
  if (header.e_phnum > 0 && header.e_phentsize != sizeof(Elf64_Phdr))
    return bad("program headers of another size");
  const uint64_t size = uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  const std::string_view table = window(bytes, header.e_phoff, size);
  if (table.size() != size) return bad("program headers outside the file");
  segments.resize(header.e_phnum);
  if (size > 0) std::memcpy(segments.data(), table.data(), size);
  return segments;
}

// From a virtual address to the bytes from there to the end of its segment.
std::string_view at_address(std::string_view bytes, const std::vector<Elf64_Phdr>& segments,
                            uint64_t address) {
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
    const uint64_t skip = address - segment.p_vaddr;
    if (skip >= segment.p_filesz) continue;
    return window(window(bytes, segment.p_offset, segment.p_filesz), skip, segment.p_filesz - skip);
  }
  return {};
}

Result<std::vector<std::string>> read_needed(std::string_view bytes,
                                             const std::vector<Elf64_Phdr>& segments,
                                             std::string_view dynamic) {
  std::vector<uint64_t> offsets;
  uint64_t strings_address = 0;
  Elf64_Dyn entry{};
  for (uint64_t at = 0; read_at(dynamic, at, entry) && entry.d_tag != DT_NULL; at += sizeof entry) {
    if (entry.d_tag == DT_NEEDED) offsets.push_back(entry.d_un.d_val);
    if (entry.d_tag == DT_STRTAB) strings_address = entry.d_un.d_ptr;
    if (offsets.size() > k_max_strings) return bad("too many NEEDED entries");
  }
  std::vector<std::string> needed;
  if (offsets.empty()) return needed;
  const std::string_view strings = at_address(bytes, segments, strings_address);
  for (const uint64_t offset : offsets) {
    auto name = c_string(strings, offset);
    // A name with a slash would lead out of the library folders.
    if (!name || name->empty() || name->find('/') != std::string::npos)
      return bad("name of a needed library");
    needed.push_back(std::move(*name));
  }
  return needed;
}

bool has_pvh_note(std::string_view notes) {
  Elf64_Nhdr note{};
  const auto aligned = [](uint64_t size) { return (size + 3) & ~uint64_t{3}; };
  for (uint64_t at = 0; read_at(notes, at, note);) {
    const std::string_view name = window(notes, at + sizeof note, note.n_namesz);
    if (note.n_type == k_xen_phys32_entry && name == std::string_view("Xen\0", 4)) return true;
    at += sizeof note + aligned(note.n_namesz) + aligned(note.n_descsz);
  }
  return false;
}

}  // namespace

bool is_elf(std::string_view bytes) {
  return bytes.substr(0, SELFMAG) == ELFMAG;
}

Result<ElfInfo> read_elf(std::string_view bytes) {
  TRY_ASSIGN(const Elf64_Ehdr header, read_header(bytes));
  TRY_ASSIGN(const std::vector<Elf64_Phdr> segments, read_segments(bytes, header));
  ElfInfo info;
  info.executable = header.e_type == ET_EXEC;
  for (const Elf64_Phdr& segment : segments) {
    const std::string_view content = window(bytes, segment.p_offset, segment.p_filesz);
    if (content.size() != segment.p_filesz) {
      if (segment.p_type == PT_DYNAMIC || segment.p_type == PT_INTERP)
        return bad("segment outside the file");
      continue;
    }
    if (segment.p_type == PT_DYNAMIC) {
      TRY_ASSIGN(info.needed, read_needed(bytes, segments, content));
    } else if (segment.p_type == PT_INTERP) {
      info.interpreter = c_string(content, 0).value_or("");
      if (info.interpreter.empty()) return bad("interpreter");
    } else if (segment.p_type == PT_NOTE) {
      info.pvh = info.pvh || has_pvh_note(content);
    }
  }
  return info;
}

Result<std::string_view> elf_section(std::string_view bytes, std::string_view name) {
  TRY_ASSIGN(const Elf64_Ehdr header, read_header(bytes));
  if (header.e_shnum == 0) return std::string_view{};
  if (header.e_shentsize != sizeof(Elf64_Shdr)) return bad("section headers of another size");
  const auto section = [&](uint64_t index, Elf64_Shdr& out) {
    const std::string_view table =
        window(bytes, header.e_shoff, uint64_t{header.e_shnum} * sizeof(Elf64_Shdr));
    return read_at(table, index * sizeof(Elf64_Shdr), out);
  };
  Elf64_Shdr entry{};
  if (!section(header.e_shstrndx, entry)) return bad("section names outside the file");
  const std::string_view names = window(bytes, entry.sh_offset, entry.sh_size);
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    if (!section(i, entry)) return bad("section headers outside the file");
    if (c_string(names, entry.sh_name) != name) continue;
    const std::string_view content = window(bytes, entry.sh_offset, entry.sh_size);
    if (entry.sh_type == SHT_NOBITS) return std::string_view{};
    if (content.size() != entry.sh_size) return bad("section outside the file");
    return content;
  }
  return std::string_view{};
}

Result<std::vector<std::string>> modinfo(std::string_view module, std::string_view key) {
  TRY_ASSIGN(const std::string_view section, elf_section(module, ".modinfo"));
  const std::string prefix = std::string(key) + "=";
  std::vector<std::string> values;
  for (const std::string& line : split(section, '\0'))
    if (line.compare(0, prefix.size(), prefix) == 0) values.push_back(line.substr(prefix.size()));
  return values;
}

std::string_view without_signature(std::string_view module) {
  constexpr std::string_view k_marker = "~Module signature appended~\n";
  constexpr size_t k_info_size = 12;  // struct module_signature, its length last and big-endian
  if (module.size() < k_marker.size() + k_info_size) return module;
  std::string_view rest = module.substr(0, module.size() - k_marker.size());
  if (module.substr(rest.size()) != k_marker) return module;
  rest.remove_suffix(k_info_size);
  uint64_t length = 0;
  for (size_t i = 8; i < k_info_size; ++i)
    length = length << 8 | static_cast<unsigned char>(module[rest.size() + i]);
  if (length > rest.size()) return module;
  return rest.substr(0, rest.size() - length);
}

}  // namespace pv::guest
