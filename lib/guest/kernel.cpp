// SPDX-License-Identifier: MIT
#include "guest/kernel.hpp"

#include <utility>

#include <fmt/format.h>

#include "guest/decompress.hpp"
#include "guest/elf.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_vmlinux = size_t{1} << 30;
constexpr size_t k_setup_sects = 0x1f1;  // offsets of the boot protocol's header
constexpr size_t k_magic = 0x202;        // "HdrS"
constexpr size_t k_protocol = 0x206;
constexpr size_t k_version = 0x20e;
constexpr size_t k_payload_offset = 0x248;
constexpr size_t k_payload_length = 0x24c;
constexpr size_t k_header_end = 0x250;
constexpr uint64_t k_protocol_with_payload = 0x208;

uint64_t little_endian(std::string_view bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

bool is_bzimage(std::string_view bytes) {
  return bytes.size() >= k_header_end && bytes.substr(k_magic, 4) == "HdrS";
}

// The first word, if it is made of what versions are made of.
std::string first_word(std::string_view text) {
  constexpr size_t k_max_version = 128;
  constexpr std::string_view k_allowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+_~";
  const size_t end = text.substr(0, k_max_version).find_first_not_of(k_allowed);
  if (end == std::string_view::npos) return {};
  return std::string(text.substr(0, end));
}

Result<std::string> extract_vmlinux(std::string_view image, const Deadline& deadline) {
  if (little_endian(image, k_protocol, 2) < k_protocol_with_payload)
    return fail(Code::invalid, "boot protocol before 2.08");
  uint64_t setup = little_endian(image, k_setup_sects, 1);
  if (setup == 0) setup = 4;  // boot.rst: for very old kernels
  const uint64_t start = (setup + 1) * 512 + little_endian(image, k_payload_offset, 4);
  const uint64_t length = little_endian(image, k_payload_length, 4);
  if (start > image.size() || length > image.size() - start || length < 8)
    return fail(Code::invalid, "payload outside the file");
  std::string_view payload = image.substr(start, length);
  const Compression kind = detect_compression(payload);
  if (kind == Compression::none) return fail(Code::invalid, "unknown compression");
  // All but gzip, which has it anyway, are followed by the unpacked size.
  if (kind != Compression::gzip) payload.remove_suffix(4);
  TRY_ASSIGN(std::string vmlinux, decompress(payload, k_max_vmlinux, deadline));
  if (vmlinux.size() != little_endian(image, start + length - 4, 4))
    return fail(Code::invalid, "unpacked size differs from the one stated");
  TRY_ASSIGN(const ElfInfo info, read_elf(vmlinux));
  if (!info.pvh) return fail(Code::invalid, "no PVH entry (CONFIG_PVH)");
  return vmlinux;
}

}  // namespace

std::string kernel_version(std::string_view bytes) {
  if (is_bzimage(bytes)) {
    const uint64_t pointer = little_endian(bytes, k_version, 2);
    if (pointer == 0 || pointer + 512 >= bytes.size()) return {};
    return first_word(bytes.substr(pointer + 512));
  }
  constexpr std::string_view k_banner = "Linux version ";
  for (size_t at = bytes.find(k_banner); at != std::string_view::npos;
       at = bytes.find(k_banner, at + 1)) {
    const std::string word = first_word(bytes.substr(at + k_banner.size()));
    if (!word.empty() && word[0] >= '0' && word[0] <= '9') return word;
  }
  return {};
}

Result<Kernel> load_kernel(std::string bytes, const Deadline& deadline) {
  Kernel kernel;
  kernel.version = kernel_version(bytes);
  if (is_elf(bytes)) {
    TRY_ASSIGN(const ElfInfo info, read_elf(bytes));
    if (!info.pvh)
      return fail(Code::invalid,
                  "is an ELF file without a PVH entry, which QEMU cannot boot; give its bzImage");
    kernel.pvh = true;
    kernel.bytes = std::move(bytes);
    return kernel;
  }
  if (!is_bzimage(bytes)) return fail(Code::invalid, "is no Linux kernel: no bzImage, no vmlinux");
  auto vmlinux = extract_vmlinux(bytes, deadline);
  kernel.pvh = vmlinux.has_value();
  if (vmlinux)
    kernel.bytes = std::move(*vmlinux);
  else
    kernel.note = vmlinux.error().message;
  if (!kernel.pvh) kernel.bytes = std::move(bytes);
  return kernel;
}

}  // namespace pv::guest
