// SPDX-License-Identifier: MIT
// The machine's package system, asked through its programs: which packages there are, and getting
// their files. Needs no root and changes nothing outside the folder it was given, save that root's
// refresh() updates the machine's own lists.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace pv::guest {

struct Package {
  std::string name;
  std::string file;  // "busybox-static_1%3a1.35.0-4_amd64.deb"
  uint64_t size_bytes = 0;
};

// What each package depends on; a name without alternatives chosen comes first.
using DependencyGraph = std::map<std::string, std::vector<std::string>>;

class Apt {
 public:
  explicit Apt(std::string state_dir);

  // The lists' age as one word: what was resolved stays true while it does not change.
  std::string stamp() const;

  // Of `roots` and all they depend on. A root that apt does not know is not in the result.
  Result<DependencyGraph> dependencies(const std::vector<std::string>& roots,
                                       const Deadline& deadline) const;
  // File names and sizes of these packages, in the same order.
  Result<std::vector<Package>> candidates(const std::vector<std::string>& names,
                                          const Deadline& deadline) const;
  // Gets the packages into `dir`. Code::unavailable with apt's own reason.
  Result<> download(const std::vector<Package>& packages, const std::string& dir,
                    const Deadline& deadline) const;
  // Gets new package lists: the machine's own as root, else private ones in the state folder.
  Result<> refresh(const Deadline& deadline);

 private:
  std::vector<std::string> command(const std::string& dir, std::vector<std::string> words) const;
  std::string lists_dir() const;
  std::string state_dir_;
  bool own_lists_ = false;
};

// Parsers of what apt prints, apart so that they can be tested.
DependencyGraph parse_dependencies(std::string_view text);
std::vector<Package> parse_uris(std::string_view text);

}  // namespace pv::guest
