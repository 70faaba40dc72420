// SPDX-License-Identifier: MIT
// What fill and check have in common: what a filling is, by flags or by a document.
#pragma once

#include <string>

#include "cli/command.hpp"
#include "image.hpp"
#include "verify/fill.hpp"

namespace pv::verifycmd {

struct FillingFlags {
  ImageFlags disk;
  std::string generation, seed, block, fraction, rate, jobs;
};
void add_filling_flags(cli::Verb& verb, FillingFlags& flags);

struct Filling {
  verify::FillOptions options;
  OpenImage disk;
};
// The disk of the command line, else that of the input document; what no flag says is said by
// `fill` of the document, when the disk came from there.
Result<Filling> open_filling(cli::Context& context, FillingFlags flags, bool read_only);

// The `fill` of a document.
json filling_json(const verify::FillOptions& options);

}  // namespace pv::verifycmd
