// SPDX-License-Identifier: MIT
// The folders of the user's cache, see guest.hpp. Owner of the layout; holds nothing open.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace pv::guest {

struct Cache {
  std::string root;
  std::string packages() const { return root + "/packages"; }
  std::string images() const { return root + "/guest"; }
  std::string image(const std::string& key) const { return images() + "/" + key; }
  std::string lock() const { return root + "/lock"; }
  std::string apt() const { return root + "/apt"; }
};

// Where the cache is; nothing is created.
Result<Cache> locate_cache();
// The same with its folders made, mode 0700. Refuses a root that is not the caller's own.
Result<Cache> open_cache();

// Sub-folders and links of a folder, sorted; empty when it is not there.
std::vector<std::string> list_dir(const std::string& dir);

// Leftovers of a build or download that was killed. The caller holds the lock.
void remove_leftovers(const std::string& dir);
// A fresh folder in `dir` whose name remove_leftovers() knows.
Result<std::string> make_temp_dir(const std::string& dir);

}  // namespace pv::guest
