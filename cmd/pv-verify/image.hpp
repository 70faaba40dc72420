// SPDX-License-Identifier: MIT
// From what a person typed to a disk that can be read, and written: a file in any format, a URI, or
// a disk that is being served.
#pragma once

#include <memory>
#include <string>

#include "cli/command.hpp"
#include "verify/image.hpp"

namespace pv::verifycmd {

struct ImageFlags {
  std::string name;
  std::string format;    // "": as the name says
  std::string key_file;  // of an encrypted image
  bool read_only = true;
  bool served = false;  // it is the name of a served disk, also when a file has this name
  std::string scope;    // of that
};

struct OpenImage {
  std::unique_ptr<verify::Image> image;
  std::string identity;  // equal for two names of the same disk
  std::string way;       // "file", "qcow2", "server" (NBD, or a daemon that knows the format)
  json reference;        // what a later stage finds it by: keys for `fill`, or a `disk`
};

// Opens and locks it. Every call on it has to end by `deadline`.
Result<OpenImage> open_image(cli::Context& context, const ImageFlags& flags,
                             const Deadline& deadline);

// --jobs: 1 to 64, `fallback` without it.
Result<unsigned> parse_jobs(const std::string& text, unsigned fallback);

}  // namespace pv::verifycmd
