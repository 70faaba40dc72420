// SPDX-License-Identifier: MIT
// Shared libraries: what a program needs, found in the folders of one root and nowhere else, so
// that libraries of different origin are never mixed.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace pv::guest {

struct Library {
  std::string soname;  // "libc.so.6"
  std::string path;    // where it was found
};

struct Libraries {
  std::string interpreter;         // path as the program wants it, "" when it is static
  std::vector<Library> libraries;  // closure, the interpreter's own file included
};

// Code::unavailable names the first library that `root` does not have.
Result<Libraries> close_libraries(const std::string& root, const std::string& program);

}  // namespace pv::guest
