// SPDX-License-Identifier: MIT
// The initial RAM disk: everything of the guest but its kernel, as one cpio archive.
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "guest/key.hpp"
#include "guest/modules.hpp"

namespace pv::guest {

struct InitrdParts {
  std::string busybox;     // path of a static busybox
  std::string agent;       // path of qemu-ga
  std::string agent_root;  // where its libraries are looked for
  std::string kernel_version;
  const ModuleSet* modules = nullptr;
  const std::vector<UserFile>* files = nullptr;
};

Result<std::string> make_initrd(const InitrdParts& parts, const Deadline& deadline);

}  // namespace pv::guest
