// SPDX-License-Identifier: MIT
#include "guest/cpio_tree.hpp"

#include <algorithm>
#include <charconv>
#include <sys/stat.h>

#include <fmt/format.h>

#include "guest/cpio.hpp"
#include "guest/decompress.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_unpacked = size_t{1} << 30;
constexpr size_t k_header = 110;
constexpr size_t k_cpio_tree_max_name = 4096;
constexpr size_t k_max_entries = 1 << 20;
constexpr std::string_view k_trailer = "TRAILER!!!";

constexpr size_t padded(size_t at) {
  return (at + 3) & ~size_t{3};
}

Error broken(const char* what) {
  return {Code::invalid, fmt::format("is a damaged cpio archive: {}", what)};
}

bool is_cpio(std::string_view bytes) {
  const std::string_view magic = bytes.substr(0, 6);
  return magic == "070701" || magic == "070702";
}

// Field `index` of a header: eight hexadecimal digits after the magic.
bool field(std::string_view header, size_t index, uint32_t& value) {
  const char* from = header.data() + 6 + 8 * index;
  const auto [stop, error] = std::from_chars(from, from + 8, value, 16);
  return error == std::errc{} && stop == from + 8;
}

// Takes one archive off the front.
Result<> take_archive(std::string_view& bytes, CpioTree& tree) {
  constexpr size_t k_mode = 1, k_nlink = 4, k_size = 6, k_name_size = 11;
  size_t at = 0;
  while (true) {
    uint32_t mode = 0, nlink = 0, size = 0, name_size = 0;
    const std::string_view header = bytes.substr(std::min(at, bytes.size()), k_header);
    if (header.size() < k_header || !is_cpio(header)) return fail(broken("no header"));
    if (!field(header, k_mode, mode) || !field(header, k_nlink, nlink) ||
        !field(header, k_size, size) || !field(header, k_name_size, name_size))
      return fail(broken("a header that is no number"));
    if (name_size == 0 || name_size > k_cpio_tree_max_name)
      return fail(broken("the length of a name"));
    const size_t data_at = padded(at + k_header + name_size);
    if (data_at > bytes.size() || size > bytes.size() - data_at) return fail(broken("cut short"));
    const std::string_view name = bytes.substr(at + k_header, name_size - 1);
    at = std::min(padded(data_at + size), bytes.size());
    if (name == k_trailer) break;
    const auto clean = clean_guest_path(name);
    if (!clean) continue;  // the root folder itself
    if (tree.size() >= k_max_entries) return fail(broken("too many entries"));
    CpioNode& node = tree[*clean];
    node = {mode & S_IFMT, S_ISREG(mode) && nlink > 1, ""};
    if (S_ISLNK(mode)) node.target = bytes.substr(data_at, size);
  }
  bytes.remove_prefix(at);
  return {};
}

// Takes all archives off the front, and the zeroes between them; what follows is left.
Result<> take_archives(std::string_view& bytes, CpioTree& tree) {
  while (true) {
    bytes.remove_prefix(std::min(bytes.find_first_not_of('\0'), bytes.size()));
    if (!is_cpio(bytes)) return {};
    TRY(take_archive(bytes, tree));
  }
}

}  // namespace

Result<CpioTree> read_cpio_tree(std::string_view initrd, const Deadline& deadline) {
  CpioTree tree;
  TRY(take_archives(initrd, tree));
  if (initrd.empty()) return tree;
  if (detect_compression(initrd) == Compression::none)
    return fail(Code::unsupported, "is compressed in a way that is not known here");
  TRY_ASSIGN(const std::string unpacked, decompress(initrd, k_max_unpacked, deadline));
  std::string_view rest = unpacked;
  TRY(take_archives(rest, tree));
  if (!rest.empty()) return fail(broken("something else follows"));
  return tree;
}

}  // namespace pv::guest
