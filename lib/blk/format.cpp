// SPDX-License-Identifier: MIT
#include "blk/format.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::blk {
namespace {

using namespace std::string_view_literals;

struct Magic {
  const char* format;  // the driver's name in QEMU
  std::string_view extension;
  off_t offset;  // from the start, or from the end when negative
  std::string_view bytes;
  bool in_raw = false;  // guests put it at the start of their disks: no reason to doubt a raw one
};

constexpr Magic k_magics[] = {
    {"qcow2", ".qcow2", 0, "QFI\xfb"sv},
    {"vmdk", ".vmdk", 0, "KDMV"sv},
    {"vmdk", ".vmdk", 0, "# Disk Desc"sv},
    {"vhdx", ".vhdx", 0, "vhdxfile"sv},
    {"vpc", ".vhd", 0, "conectix"sv},
    {"vpc", ".vpc", -512, "conectix"sv},
    {"vdi", ".vdi", 64, "\x7f\x10\xda\xbe"sv},
    {"luks", ".luks", 0, "LUKS\xba\xbe"sv, true},
    {"qed", ".qed", 0, "QED\0"sv},
    {"parallels", ".hds", 0, "WithoutFreeSpace"sv},
    {"parallels", ".parallels", 0, "WithouFreSpacExt"sv},
    {"dmg", ".dmg", -512, "koly"sv},
};

// Files of ours, which no guest writes: to serve one as a disk is a slip that destroys it.
struct Own {
  const char* what;
  std::string_view bytes;  // at the start
};
constexpr Own k_own[] = {
    {"an overlay of layer cow", "PVCOW\r\n\x1a"sv},
    {"a history", "PVHIST\0"sv},
    {"a log of layer record", "PVWLOG\n\x1a"sv},
};

bool has_magic(int fd, const Magic& magic) {
  off_t at = magic.offset;
  if (at < 0) {
    struct stat st {};
    if (fstat(fd, &st) < 0 || st.st_size < -at) return false;
    at += st.st_size;
  }
  char bytes[16];
  return pread(fd, bytes, magic.bytes.size(), at) == static_cast<ssize_t>(magic.bytes.size()) &&
         magic.bytes == std::string_view(bytes, magic.bytes.size());
}

std::string extension_of(const std::string& path) {
  const size_t dot = path.find_last_of("./");
  if (dot == std::string::npos || path[dot] == '/') return {};
  std::string extension = path.substr(dot);
  for (char& c : extension) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  return extension;
}

}  // namespace

std::string format_of_extension(const std::string& path) {
  const std::string extension = extension_of(path);
  for (const Magic& magic : k_magics)
    if (extension == magic.extension) return magic.format;
  return "raw";
}

std::vector<std::string> known_formats() {
  std::vector<std::string> names = {"raw"};
  for (const Magic& magic : k_magics)
    if (names.back() != magic.format) names.emplace_back(magic.format);
  return names;
}

Result<std::string> choose_format(const std::string& path, int fd, std::string_view given) {
  const std::vector<std::string> known = known_formats();
  if (!given.empty()) {
    if (std::find(known.begin(), known.end(), given) != known.end()) return std::string(given);
    return fail(Error(Code::usage,
                      fmt::format("unknown format '{}' (formats: {})", given, join(known, " ")))
                    .with("valid", known));
  }
  const std::string extension = extension_of(path);
  std::string expected, found;
  for (const Magic& magic : k_magics) {
    if (extension == magic.extension) expected = magic.format;
    if (has_magic(fd, magic) && (!magic.in_raw || extension == magic.extension))
      found = magic.format;
  }
  for (const Own& own : k_own)
    if (found.empty() && has_magic(fd, {"", "", 0, own.bytes}))
      return fail(Code::invalid,
                  fmt::format("{} is {}; say --format raw to take it for a disk", path, own.what));
  if (expected == found) return found.empty() ? "raw" : found;
  if (!expected.empty())
    return fail(Code::invalid, fmt::format("{} is named like {} but does not hold it; say which "
                                           "with --format",
                                           path, expected));
  return fail(Code::invalid,
              fmt::format("{} looks like {}; say --format {}, or --format raw if that is the "
                          "guest's own data",
                          path, found, found));
}

bool is_read_only_format(std::string_view format) {
  return format == "dmg";
}

bool takes_key(std::string_view format) {
  return format == "luks" || format == "qcow2";
}

}  // namespace pv::blk
