// SPDX-License-Identifier: MIT
#include "target/power_cut.hpp"

#include <fmt/format.h>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/disk_object.hpp"
#include "target/vm_target.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::faultcmd {
namespace {

struct PowerCutOptions {
  std::string vm;
  std::vector<std::string> disks, keep;
  std::string survivors = "none", seed, atomic;
};

// "DISK:OFFSET+LENGTH", with units.
Result<serve::PowerCut::Range> parse_keep(const std::string& text) {
  const size_t colon = text.find(':');
  const size_t plus = colon == std::string::npos ? colon : text.find('+', colon);
  if (colon == 0 || plus == std::string::npos)
    return fail(Code::usage, fmt::format("--keep '{}' is not DISK:OFFSET+LENGTH", text));
  serve::PowerCut::Range range{text.substr(0, colon), 0, 0};
  TRY_ASSIGN(range.offset, parse_size(text.substr(colon + 1, plus - colon - 1)));
  TRY_ASSIGN(range.length, parse_size(text.substr(plus + 1)));
  return range;
}

Result<serve::PowerCut> parse(const PowerCutOptions& options) {
  serve::PowerCut cut;
  cut.survivors = options.survivors;
  const bool random = cut.survivors == "random", listed = cut.survivors == "listed";
  if (!random && !listed && cut.survivors != "none" && cut.survivors != "all")
    return fail(Error(Code::usage, fmt::format("--survivors '{}' is not one of none, all, random, "
                                               "listed",
                                               cut.survivors))
                    .with("valid", {"none", "all", "random", "listed"}));
  if (!options.keep.empty() && !listed)
    return fail(Code::usage, "--keep is for --survivors listed");
  if (!options.seed.empty() && !random)
    return fail(Code::usage, "--seed is for --survivors random");
  if (!options.atomic.empty() && !random)
    return fail(Code::usage, "--atomic is for --survivors random");
  for (const std::string& text : options.keep) {
    TRY_ASSIGN(serve::PowerCut::Range range, parse_keep(text));
    cut.keep.push_back(std::move(range));
  }
  if (random && options.seed.empty()) cut.seed = fresh_seed();
  if (!options.seed.empty()) {
    TRY_ASSIGN(cut.seed, parse_seed("--seed", options.seed));
  }
  if (!options.atomic.empty()) {
    TRY_ASSIGN(cut.atomic_bytes, parse_size(options.atomic));
    if (cut.atomic_bytes == 0) return fail(Code::usage, "--atomic 0 leaves nothing to survive");
  }
  return cut;
}

bool names_vm(const json& document) {
  const json* vm = find(document, "vm");
  return vm && vm->is_object() && !get_string(*vm, "name").empty();
}

Result<json> cut_disks(cli::Context& context, const PowerCutOptions& options,
                       const serve::PowerCut& cut, const Deadline& deadline) {
  if (options.disks.empty()) {
    TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, ""));
    return target::cut_power(at.run, std::vector<Object>{at.disk}, cut, deadline);
  }
  TRY_ASSIGN(const RunDir run, context.run_dir());
  std::vector<Object> disks;
  for (const std::string& name : options.disks) {
    TRY_ASSIGN(Object disk, serve::find_disk(run, name));
    disks.push_back(std::move(disk));
  }
  return target::cut_power(run, disks, cut, deadline);
}

Result<int> act(cli::Context& context, const PowerCutOptions& options) {
  if (!options.vm.empty() && !options.disks.empty())
    return fail(Code::usage, "a VM loses the power of all its disks: name it, or name disks");
  TRY_ASSIGN(const serve::PowerCut cut, parse(options));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  bool whole_vm = !options.vm.empty();
  if (!whole_vm && options.disks.empty()) {
    TRY_ASSIGN(const json* document, context.input());
    whole_vm = names_vm(*document);
  }
  if (whole_vm) {
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.vm));
    TRY_ASSIGN(const json done, target::cut_power(at.run, at.vm, cut, deadline));
    TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
    context.document()["power_cut"] = done;
  } else {
    TRY_ASSIGN(context.document()["power_cut"], cut_disks(context, options, cut, deadline));
  }
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_power_cut(cli::Verb& verb) {
  auto options = std::make_shared<PowerCutOptions>();
  verb.positional("vm", options->vm, "The VM (default: the one of the document on stdin)");
  verb.option("--disk", options->disks, "NAME",
              "A disk that no running VM uses, instead of a VM (can be repeated)");
  verb.option(
      "--survivors", options->survivors, "WHICH",
      "What was not flushed and is there all the same: none (default), all, random, listed");
  verb.option("--seed", options->seed, "N", "Seed of the random survivors (default: a fresh one)");
  verb.option("--keep", options->keep, "DISK:OFFSET+LENGTH",
              "Bytes of a disk that survive, e.g. vda:1M+4k (can be repeated)");
  verb.option("--atomic", options->atomic, "BYTES",
              "What survives at random only as a whole (default: the disk's sector)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
