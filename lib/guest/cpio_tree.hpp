// SPDX-License-Identifier: MIT
// What an initial RAM disk holds already: its folders, links and files, as far as one who appends
// to it must know. A folder that is written a second time would lose its mode, and one that is in
// truth a link would take the link's place.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace pv::guest {

struct CpioNode {
  uint32_t type = 0;       // S_IF* bits
  bool hard_link = false;  // a file with further names
  std::string target;      // of a symbolic link
};
using CpioTree = std::map<std::string, CpioNode, std::less<>>;  // by clean relative path

// Reads newc archives that follow one another, the last of which may be compressed. The bytes are
// foreign: Code::invalid for broken ones, Code::unsupported for a compression that is not known.
Result<CpioTree> read_cpio_tree(std::string_view initrd, const Deadline& deadline);

}  // namespace pv::guest
