// SPDX-License-Identifier: MIT
// From a spec to the bottom of a stack: opens, locks or makes the image. Runs in the server.
#pragma once

#include <memory>
#include <string>

#include "base/loop.hpp"
#include "base/process.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/disk.hpp"
#include "serve/spec.hpp"

namespace pv::serve {

// The back end and what keeps it alive. Destroyed after the stack that it stands under.
struct Opened {
  std::unique_ptr<blk::Disk> disk;
  std::unique_ptr<blk::AsyncIo> io;
  Child helper;            // qemu-storage-daemon, for formats other than raw
  std::string format;      // as chosen
  std::string image_path;  // the file that holds the data; "" for memory
};

// `dir` is the object's directory: scratch files and copies of templates are made there. Fills in
// spec.format.
Result<Opened> open_source(Spec& spec, const std::string& dir, Loop& loop);

}  // namespace pv::serve
