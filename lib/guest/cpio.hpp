// SPDX-License-Identifier: MIT
// Writer of "newc" cpio archives, the format of an initial RAM disk (Linux:
// Documentation/driver-api/early-userspace/buffer-format.rst). Needs no root: owners, modes and
// device numbers are only written down. The same entries give the same bytes: times are 0 and
// inode numbers count up. The kernel unpacks archives that follow one another, so a second one can
// be appended to add files to a finished image.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unistd.h>

#include "base/result.hpp"

namespace pv::guest {

struct Owner {
  uint32_t uid = 0;
  uint32_t gid = 0;
};

// Collects entries in memory. Paths are relative to the root, a leading '/' is dropped; missing
// parent directories are added, root:root 0755; a parent that is a link is followed. A mistake (an
// empty path, `..`, a file where a directory is) is remembered and returned by finish().
class CpioWriter {
 public:
  void dir(std::string_view path, uint32_t mode = 0755, Owner owner = {});
  void file(std::string_view path, std::string_view data, uint32_t mode = 0644, Owner owner = {});
  void symlink(std::string_view path, std::string_view target, Owner owner = {});
  // Something that the archive in front of this one has; `target` is a link's. Nothing is written.
  void assume(std::string_view path, uint32_t type, std::string_view target);
  // The path that a parent that is a link leads to.
  std::string resolved(std::string_view path);

  // A character device; the kernel's own /dev is empty until devtmpfs is mounted.
  void char_device(std::string_view path, uint32_t mode, uint32_t major, uint32_t minor);

  // The first mistake so far.
  const Result<>& state() const { return state_; }

  // Ends the archive, padded to 512 bytes so that another may follow. Call once.
  Result<std::string> finish();

 private:
  struct Entry {
    std::string path;
    uint32_t mode = 0;
    uint32_t nlink = 1;
    Owner owner;
    uint32_t major = 0, minor = 0;
  };
  // Clean relative path with its parents added; "" when it was refused.
  std::string enter(std::string_view path, uint32_t type);
  std::string follow_links(std::string path);
  void append(const Entry& entry, std::string_view data);
  void refuse(std::string_view path, std::string_view why);

  std::string out_;
  std::map<std::string, uint32_t, std::less<>> types_;  // path to S_IF* bits
  std::map<std::string, std::string, std::less<>> links_;
  uint32_t last_ino_ = 0;
  Result<> state_;
};

// "a/b" for "/a//b/."; Code::usage for an empty path, the root itself, `..`, a NUL byte, and for
// what Linux would find too long.
Result<std::string> clean_guest_path(std::string_view path);

}  // namespace pv::guest
