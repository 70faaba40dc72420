// SPDX-License-Identifier: MIT
#include "snap/take.hpp"

#include <fcntl.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "target/vm_target.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::snapcmd {
namespace {

constexpr uint64_t k_take_ns = 120 * k_ns_per_s;

struct TakeOptions {
  std::vector<std::string> words;  // [VM] [PATH]
  bool stop = false;
  bool freeze = false;
};

struct Place {
  std::string vm;    // "" for the document's
  std::string path;  // "" for one in the scope
};

// One word is a path where the document has a VM for it, or where no VM can have that name.
Result<Place> place_of(const TakeOptions& options) {
  if (options.words.size() > 2) return fail(Code::usage, "one VM and one path at most");
  if (options.words.size() == 2) return Place{options.words[0], options.words[1]};
  if (options.words.empty()) return Place{};
  const std::string& word = options.words[0];
  if (word.find('/') != std::string::npos || !check_name("vm", word)) return Place{"", word};
  return Place{word, ""};
}

Result<int> act(cli::Context& context, const TakeOptions& options) {
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_take_ns));
  TRY_ASSIGN(const Place place, place_of(options));
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, place.vm));
  const snap::TakeOptions how{options.stop, options.freeze};
  std::string dir = place.path.empty() ? "" : absolute_path(place.path);
  std::optional<Object> object;
  if (dir.empty()) {
    TRY_ASSIGN(const RunDir home, RunDir::open(at.vm.scope));
    TRY_ASSIGN(object, snap::new_place(home, at.vm.name));
    dir = object->path(snap::k_bundle_dir);
  }
  auto bundle = snap::take(at.run, at.vm, dir, how, deadline);
  if (!bundle && object) at.run.remove(*object);
  TRY(bundle);
  context.document()["snap"] = snap::snap_document(*bundle);
  if (object) context.document()["snap"]["name"] = object->name;
  TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_take(cli::Verb& verb) {
  auto options = std::make_shared<TakeOptions>();
  verb.rest("words", options->words,
            "[VM] [PATH]: the VM (default: the one of the document on stdin), and where the "
            "snapshot goes (default: into the scope, under a name)");
  verb.flag("--stop", options->stop, "The VM does not go on: it is shut down");
  verb.flag("--freeze", options->freeze, "Let the guest's agent freeze its file systems meanwhile");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::snapcmd
