// SPDX-License-Identifier: MIT
// The built-in guest: a kernel and an initial RAM disk made from the machine's own packages, kept
// in the user's cache. build() makes one, find() looks one up. Nothing here knows of QEMU; any
// thread may call in, builds exclude each other by a lock file in the cache.
//
//   $PV_CACHE_DIR | $XDG_CACHE_HOME/provium | ~/.cache/provium       mode 0700
//     packages/*.deb                          what was downloaded, and how names were resolved
//     guest/KEY/{kernel,initrd,manifest.json} one image; KEY is a hash of all that went into it
//     guest/NAME -> KEY                       the last build of that name, `tiny` by default
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::guest {

constexpr const char* k_default_name = "tiny";

struct BuildOptions {
  // Path of a bzImage or vmlinux, or the name of a package "linux-image-…"; "" means the newest
  // linux-image-cloud-amd64.
  std::string kernel;
  std::vector<std::string> modules;   // further modules by name; what they depend on comes along
  std::vector<std::string> files;     // DEST=SRC
  bool force = false;                 // build even when the cache has it
  std::string name = k_default_name;  // what find() will know it by
};

struct Image {
  std::string kernel, initrd;  // absolute paths
  std::string kernel_version;  // "6.1.0-…-cloud-amd64"; "" when not known
  std::string key;             // "" for the folder of $PV_GUEST_DIR
};

using Progress = std::function<void(std::string_view)>;

// Makes an image, or finds it in the cache, and lets `options.name` point to it. Needs no root.
// Code::unavailable: a package or program is missing and the machine has no replacement.
// Code::usage: a module that the kernel does not have, a bad DEST. Code::invalid: not a kernel.
Result<Image> build(const BuildOptions& options, const Deadline& deadline,
                    const Progress& progress);

// The image that was last built under `name`; Code::unavailable with a hint when there is none.
Result<Image> find(const std::string& name);

// find("tiny"), unless $PV_GUEST_DIR names a folder with `kernel` and `initrd`, which then wins.
Result<Image> find_tiny();

// The "guest" key of a document: paths, versions, modules, packages, sizes of a built image.
Result<json> describe(const Image& image, const std::string& name);

// Deletes every image, every name and every download. What was removed, as a "guest" key.
Result<json> clean(const Deadline& deadline);

}  // namespace pv::guest
