// SPDX-License-Identifier: MIT
// restore and clone.
#include <thread>

#include <fmt/format.h>

#include "base/text.hpp"
#include "target/accounting.hpp"
#include "verbs.hpp"
#include "vm/boot_many.hpp"
#include "vm/vm_object.hpp"

namespace pv::snapcmd {
namespace {

constexpr size_t k_max_clones = 4096;

struct Restore {
  std::vector<std::string> words;  // [SNAP] [VM]
  RestoreOptions how;
};

Result<int> restore(cli::Context& context, const Restore& options) {
  if (options.words.size() > 2) return fail(Code::usage, "one snapshot and one VM at most");
  TRY_ASSIGN(SnapTarget at, snap_target(context, options.words.empty() ? "" : options.words[0]));
  TRY_ASSIGN(const snap::Bundle bundle, snap::open_bundle(at.dir));
  std::string name = options.words.size() == 2 ? options.words[1] : "";
  // A document that comes down the pipeline names the VM too, where no word does.
  if (name.empty() && context.has_input())
    if (const json* vm = find(context.document(), "vm")) name = get_string(*vm, "name");
  if (name.empty()) name = get_string(bundle.manifest["saved"], "name");
  TRY_ASSIGN(const snap::RestoreFlags flags, restore_flags(context, at.run, options.how, 1));
  TRY(snap::restore(at.run, bundle, name, flags));
  if (!context.text_output()) context.document()["snap"] = snap::snap_document(bundle);
  TRY_ASSIGN(const Object vm, vm::find_vm(at.run, name));
  TRY_ASSIGN(context.document()["vm"], target::live_document(at.run, vm));
  TRY(context.emit());
  return 0;
}

struct Clone {
  std::string snap;
  std::string count = "1";
  std::string pattern;
  std::string jobs;
  RestoreOptions how;
};

// "web-%" is web-1, web-2, …; without a percent sign the number is put behind.
std::string clone_name(const std::string& pattern, size_t number) {
  const size_t at = pattern.find('%');
  if (at == std::string::npos) return pattern + std::to_string(number);
  return pattern.substr(0, at) + std::to_string(number) + pattern.substr(at + 1);
}

// New VMs with the first names that are free; another command may be making some at the same time.
Result<std::vector<Object>> clone_vms(const RunDir& run, const std::string& pattern, size_t count) {
  std::vector<Object> vms;
  TRY(check_name("vm", clone_name(pattern, 1)));
  for (size_t number = 1; vms.size() < count; ++number) {
    auto vm = snap::make_vm(run, clone_name(pattern, number));
    if (!vm && vm.error().code == Code::duplicate_name) continue;
    if (vm) {
      vms.push_back(std::move(*vm));
      continue;
    }
    for (const Object& made : vms) run.remove(made);
    return fail(vm.error());
  }
  return vms;
}

Result<int> clone(cli::Context& context, const Clone& options) {
  TRY_ASSIGN(const uint64_t count, parse_count("--count", options.count));
  if (count == 0 || count > k_max_clones)
    return fail(Code::usage, fmt::format("--count: 1 to {}", k_max_clones));
  TRY_ASSIGN(const SnapTarget at, snap_target(context, options.snap));
  TRY_ASSIGN(const snap::Bundle bundle, snap::open_bundle(at.dir));
  const std::string pattern = options.pattern.empty()
                                  ? get_string(bundle.manifest["saved"], "name") + "-%"
                                  : options.pattern;
  size_t parallel = std::max(1U, std::thread::hardware_concurrency());
  if (!options.jobs.empty()) {
    TRY_ASSIGN(parallel, parse_count("--jobs", options.jobs));
    if (parallel == 0) return fail(Code::usage, "--jobs: at least 1");
  }
  TRY_ASSIGN(const snap::RestoreFlags flags, restore_flags(context, at.run, options.how, parallel));
  TRY_ASSIGN(const Fd held, snap::hold(bundle));
  TRY(snap::check(at.run, bundle, false));
  TRY_ASSIGN(const std::vector<Object> vms, clone_vms(at.run, pattern, count));
  const json snap = snap::snap_document(bundle);
  const json input = context.document();
  int code = 0;
  Result<> printed;
  snap::clone(at.run, bundle, vms, flags, parallel, [&](size_t index, Result<json> vm) {
    context.start_document(input);
    if (!context.text_output()) context.document()["snap"] = snap;  // the VM is what was asked for
    if (!vm) {
      context.document()["vm"] = {{"name", vms[index].name}, {"scope", vms[index].scope}};
      const int one = context.report("pv-snap", vm.error());
      if (code == 0) code = one;
      return;
    }
    context.document()["vm"] = std::move(*vm);
    if (auto done = context.emit(); !done && printed) printed = done;
  });
  TRY(printed);
  return code;
}

}  // namespace

void add_restore_flags(cli::Verb& verb, RestoreOptions& options) {
  verb.option("--clock", options.clock, "WHICH",
              "The guest's clock: keep (where it was) or host (default: keep)");
  verb.flag("--reseed", options.reseed,
            "Give the guest fresh entropy, a machine id and a host name of its own");
  verb.flag("--paused", options.paused, "Its CPUs stand still until pv-vm resume");
}

Result<snap::RestoreFlags> restore_flags(const cli::Context& context, const RunDir& run,
                                         const RestoreOptions& options, size_t parallel) {
  if (options.clock != "keep" && options.clock != "host")
    return fail(Code::usage,
                fmt::format("--clock: keep or host, not '{}'", printable(options.clock)));
  if (options.paused && (options.reseed || options.clock == "host"))
    return fail(Code::usage, "--paused: a guest that stands still cannot be told anything");
  snap::RestoreFlags flags;
  flags.vm.paused = options.paused;
  flags.vm.host_clock = options.clock == "host";
  flags.vm.reseed = options.reseed;
  flags.in_place = options.in_place;
  TRY_ASSIGN(flags.vm.timeout_ns, context.timeout_ns(vm::default_boot_ns(run, parallel)));
  return flags;
}

void build_restore(cli::Verb& verb) {
  auto options = std::make_shared<Restore>();
  verb.rest(
      "words", options->words,
      "[SNAP] [VM]: the snapshot (default, or -: the one of the document on stdin), and the VM "
      "that goes on from it (default: the one of the document, else of the snapshot)");
  add_restore_flags(verb, options->how);
  verb.flag("--in-place", options->how.in_place,
            "Put the disks' content back into their images, instead of overlays on the snapshot");
  verb.run([options](cli::Context& context) { return restore(context, *options); });
}

void build_clone(cli::Verb& verb) {
  auto options = std::make_shared<Clone>();
  verb.positional("snap", options->snap,
                  "The snapshot (default: the one of the document on stdin)");
  verb.option("--count", options->count, "N", "How many VMs (default: 1)");
  verb.option("--name", options->pattern, "PATTERN",
              "Their names, % being the number (default: that of the snapshot's VM, and -%)");
  verb.option("--jobs", options->jobs, "N",
              "Restore at most this many at the same time (default: one per processor)");
  add_restore_flags(verb, options->how);
  verb.run([options](cli::Context& context) { return clone(context, *options); });
}

}  // namespace pv::snapcmd
