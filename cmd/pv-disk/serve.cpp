// SPDX-License-Identifier: MIT
#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct ServeOptions {
  std::string id;
  SpecFlags spec;
  bool foreground = false;
};

// "t" for /tmp/t.img; "disk" where nothing better can be made of it.
std::string id_of(const serve::Spec& spec) {
  std::string stem = spec.path.substr(spec.path.find_last_of('/') + 1);
  stem = stem.substr(0, stem.find('.'));
  return check_name("disk", stem) ? stem : "disk";
}

Result<> serve_here(cli::Context& context, const Object& disk, const serve::Spec& spec) {
  Result<> emitted;
  TRY(serve::run_server(disk, spec, [&](const json&) {
    if (auto document = serve::disk_document(disk)) {
      context.document()["disk"] = *document;
      emitted = context.emit();
      if (emitted) emitted = context.finish();
    }
  }));
  return emitted;
}

Result<int> act(cli::Context& context, const ServeOptions& options) {
  TRY_ASSIGN(serve::Spec spec, spec_from(context, options.spec));
  const std::string id = options.id.empty() ? id_of(spec) : options.id;
  TRY(check_name("disk", id));
  TRY(serve::complete(spec, id));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY_ASSIGN(const Object disk, run.create("disk", "", id));
  if (options.foreground) {
    auto served = serve_here(context, disk, spec);
    run.remove(disk);
    TRY(served);
    return 0;
  }
  if (auto state = serve::start_server(disk, spec, deadline); !state) {
    static_cast<void>(serve::close_disk(run, disk));
    return fail(state.error());
  }
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(disk, deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_serve(cli::Verb& verb) {
  auto options = std::make_shared<ServeOptions>();
  verb.positional("id", options->id, "Name of the disk (default: from the file's name)");
  add_spec_flags(verb, options->spec);
  verb.flag("--foreground", options->foreground, "Serve in this process until it is interrupted");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
