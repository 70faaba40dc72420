// SPDX-License-Identifier: MIT
#include "filling.hpp"

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/uri.hpp"

namespace pv::verifycmd {
namespace {

Result<double> parse_fraction(const std::string& text) {
  char* end = nullptr;
  const double value = strtod(text.c_str(), &end);
  if (*end != '\0' || !(value > 0 && value <= 1))
    return fail(Code::usage, fmt::format("--fraction: more than 0 and at most 1, not '{}'", text));
  return value;
}

// What the flags leave open.
Result<> take_from(const json& fill, verify::FillOptions& options) {
  options.id.generation = get_u64(fill, "generation", options.id.generation);
  const uint64_t block = get_u64(fill, "block_bytes", options.id.size);
  if (block > UINT32_MAX) return fail(Code::bad_document, "fill.block_bytes is too large");
  options.id.size = static_cast<uint32_t>(block);
  if (const std::string seed = get_string(fill, "seed"); !seed.empty()) {
    TRY_ASSIGN(options.id.seed, parse_seed("fill.seed", seed));
  }
  if (const json* fraction = find(fill, "fraction"); fraction && fraction->is_number())
    options.fraction = fraction->get<double>();
  return {};
}

Result<> take_from(const FillingFlags& flags, verify::FillOptions& options) {
  if (!flags.generation.empty()) {
    TRY_ASSIGN(options.id.generation, parse_count("--generation", flags.generation));
  }
  if (!flags.seed.empty()) {
    TRY_ASSIGN(options.id.seed, parse_seed("--seed", flags.seed));
  }
  if (!flags.block.empty()) {
    TRY_ASSIGN(const uint64_t size, parse_size(flags.block));
    options.id.size = static_cast<uint32_t>(std::min<uint64_t>(size, UINT32_MAX));
  }
  if (!flags.fraction.empty()) {
    TRY_ASSIGN(options.fraction, parse_fraction(flags.fraction));
  }
  if (!flags.rate.empty()) {
    TRY_ASSIGN(options.rate, parse_size(flags.rate));
    if (options.rate == 0) return fail(Code::usage, "--rate: more than 0 bytes a second");
  }
  TRY_ASSIGN(options.jobs, parse_jobs(flags.jobs, options.jobs));
  return verify::check_options(options);
}

// The name of the disk in a document that a filling or a server has made.
Result<> name_from(const json& document, FillingFlags& flags) {
  const json* fill = find(document, "fill");
  if (fill != nullptr && !get_string(*fill, "image").empty()) {
    flags.disk.name = get_string(*fill, "image");
    if (flags.disk.format.empty()) flags.disk.format = get_string(*fill, "format");
    return {};
  }
  const json* disk = find(document, "disk");
  const std::string id = disk ? get_string(*disk, "id") : "",
                    vm = disk ? get_string(*disk, "vm") : "";
  if (id.empty())
    return fail(Code::bad_document, "the input document names no disk (keys \"fill\", \"disk\")");
  flags.disk.name = vm.empty() ? id : vm + "/" + id;
  flags.disk.scope = get_string(*disk, "scope");
  flags.disk.served = true;
  return {};
}

}  // namespace

void add_filling_flags(cli::Verb& verb, FillingFlags& flags) {
  verb.positional("disk", flags.disk.name,
                  "A file, a URI, or the name of a served disk (default: the document's)");
  verb.option("--generation", flags.generation, "N", "Which filling it is, from 1 up (default: 1)");
  verb.option("--seed", flags.seed, "N", "What the content is made from (default: 0)");
  verb.option("--block", flags.block, "SIZE", "Size of a block (default: 4096)");
  verb.option("--fraction", flags.fraction, "F", "Only this part of the blocks, 0 to 1");
  verb.option("--rate", flags.rate, "SIZE", "At most so many bytes a second");
  verb.option("--format", flags.disk.format, "FORMAT",
              "The format, where the name does not say it");
  verb.option("--key-file", flags.disk.key_file, "PATH",
              "The passphrase of an encrypted image: the whole file");
  verb.option("--jobs", flags.jobs, "N", "So many requests at the same time, 1 to 64 (default: 4)");
}

Result<Filling> open_filling(cli::Context& context, FillingFlags flags, bool read_only) {
  Filling filling;
  if (flags.disk.name.empty()) {
    TRY_ASSIGN(const json* document, context.input());
    TRY(name_from(*document, flags));
    if (const json* fill = find(*document, "fill")) TRY(take_from(*fill, filling.options));
  }
  TRY(take_from(flags, filling.options));
  TRY_ASSIGN(filling.options.deadline, context.deadline(UINT64_MAX));
  flags.disk.read_only = read_only;
  TRY_ASSIGN(filling.disk, open_image(context, flags.disk, filling.options.deadline));
  return filling;
}

json filling_json(const verify::FillOptions& options) {
  return {{"generation", options.id.generation},
          {"seed", std::to_string(options.id.seed)},
          {"block_bytes", options.id.size},
          {"fraction", options.fraction}};
}

}  // namespace pv::verifycmd
