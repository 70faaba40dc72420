// SPDX-License-Identifier: MIT
// Where the parts of a guest come from: unpacked packages (preferred: the same on every machine),
// or, without a network, what is installed. Each part is taken whole from one root folder.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"
#include "guest/packages.hpp"

namespace pv::guest {

struct Source {
  Part part;
  bool host = false;              // installed files; the root is then ""
  std::vector<Package> packages;  // what to unpack, when not host
  std::string identity;           // what goes into the image's key
  std::string root;               // filled by whoever unpacks
};

Source package_source(const PartPackages& part);

// The installed one; Code::unavailable says what is not installed.
Result<Source> host_source(Part part);

// Paths inside a root.
struct KernelFiles {
  std::string image;
  std::string modules_dir;  // "" when there is none
  std::string version;
};
Result<KernelFiles> find_kernel(const std::string& root);
// Modules for a kernel that was given as a file: beside it, or the machine's own.
std::string find_modules_for(const std::string& kernel_path, const std::string& version);
Result<std::string> find_busybox(const std::string& root);  // a static one
Result<std::string> find_agent(const std::string& root);

}  // namespace pv::guest
