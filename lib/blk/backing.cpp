// SPDX-License-Identifier: MIT
#include "blk/backing.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <endian.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.hpp"
#include "blk/uri.hpp"

namespace pv::blk {
namespace {

using namespace std::string_view_literals;

constexpr size_t k_head = 64;
constexpr uint64_t k_max_name = 1023;  // docs/interop/qcow2.txt in QEMU
constexpr size_t k_max_files = 64;

template <class T>
T at(const char* head, size_t offset) {
  T value;
  std::memcpy(&value, head + offset, sizeof value);
  return value;
}

// Where in the file the name of its backing file lies; no length where it has none.
struct Place {
  uint64_t offset = 0, length = 0;
};

Place place_of_name(const char* head) {
  const std::string_view magic(head, 4);
  if (magic == "QFI\xfb"sv)
    return {be64toh(at<uint64_t>(head, 8)), be32toh(at<uint32_t>(head, 16))};
  if (magic == "QED\0"sv) return {le32toh(at<uint32_t>(head, 56)), le32toh(at<uint32_t>(head, 60))};
  return {};
}

// "" where there is none.
std::string backing_file(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st {};
  char head[k_head] = {};
  if (!fd || fstat(fd.get(), &st) < 0 || !S_ISREG(st.st_mode) ||
      pread(fd.get(), head, sizeof head, 0) != static_cast<ssize_t>(sizeof head))
    return "";
  const Place place = place_of_name(head);
  if (place.offset == 0 || place.length == 0 || place.length > k_max_name) return "";
  std::string name(place.length, '\0');
  if (pread(fd.get(), name.data(), name.size(), static_cast<off_t>(place.offset)) !=
      static_cast<ssize_t>(name.size()))
    return "";
  if (name.rfind("file:", 0) == 0) name.erase(0, 5);
  if (is_uri(name) || name.rfind("json:", 0) == 0) return "";
  return name[0] == '/' ? name : path.substr(0, path.rfind('/') + 1) + name;
}

}  // namespace

bool same_file(const std::string& a, const std::string& b) {
  struct stat one {
  }, two{};
  return stat(a.c_str(), &one) == 0 && stat(b.c_str(), &two) == 0 && one.st_dev == two.st_dev &&
         one.st_ino == two.st_ino;
}

std::vector<std::string> backing_files(const std::string& path) {
  std::vector<std::string> files;
  for (std::string next = backing_file(path); !next.empty() && files.size() < k_max_files;
       next = backing_file(next)) {
    const bool again = std::any_of(files.begin(), files.end(),
                                   [&](const std::string& file) { return same_file(file, next); });
    if (again) break;
    files.push_back(next);
  }
  return files;
}

}  // namespace pv::blk
