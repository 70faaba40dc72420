// SPDX-License-Identifier: MIT
// XXH3, 64 bits, of what comes in pieces and of files. For telling damage and difference, not for
// telling an attacker.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace pv {

class RunningHash {
 public:
  RunningHash();
  void add(std::string_view bytes);
  std::string text() const;  // "xxh3:" and 16 hex digits

 private:
  std::shared_ptr<void> state_;
};

// Of an open file's content, whatever lies in holes: blocks of zeroes count as much as holes do,
// which is by the length of the file alone.
Result<std::string> hash_of_file(int fd, std::string_view name);

}  // namespace pv
