// SPDX-License-Identifier: MIT
// info, list, check, delete.
#include "base/file.hpp"
#include "base/text.hpp"
#include "verbs.hpp"

namespace pv::snapcmd {
namespace {

void build_on_one(cli::Verb& verb,
                  std::function<Result<int>(cli::Context&, const SnapTarget&)> act) {
  auto word = std::make_shared<std::string>();
  verb.positional("snap", *word, "The snapshot (default: the one of the document on stdin)");
  verb.run([word, act = std::move(act)](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const SnapTarget at, snap_target(context, *word));
    return act(context, at);
  });
}

Result<int> info(cli::Context& context, const SnapTarget& at) {
  TRY_ASSIGN(const snap::Bundle bundle, snap::open_bundle(at.dir));
  json document = snap::snap_document(bundle);
  document["files"] = bundle.manifest["files"];
  document["vms"] = snap::users_of(at.run, at.dir);
  context.document()["snap"] = std::move(document);
  TRY(context.emit());
  return 0;
}

Result<int> check(cli::Context& context, const SnapTarget& at) {
  TRY_ASSIGN(const snap::Bundle bundle, snap::open_bundle(at.dir));
  TRY(snap::check(at.run, bundle, true));
  context.document()["snap"] = snap::snap_document(bundle);
  context.document()["snap"]["whole"] = true;
  TRY(context.emit());
  return 0;
}

Result<int> list(cli::Context& context, bool all) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  snap::sweep_half_taken(run);
  for (const Object& object : run.list("snap", all)) {
    const auto bundle = snap::open_bundle(object.path(snap::k_bundle_dir));
    json snap = {{"name", object.name}, {"scope", object.scope}};
    if (bundle)
      snap.update(snap::snap_document(*bundle));
    else if (bundle.error().code == Code::no_such_snapshot)
      continue;  // being taken, or deleted while we looked
    else
      snap.update({{"path", object.path(snap::k_bundle_dir)}, {"problem", bundle.error().message}});
    TRY(context.emit({{"v", cli::k_document_version}, {"snap", snap}}));
  }
  return 0;
}

}  // namespace

Result<SnapTarget> snap_target(cli::Context& context, const std::string& word) {
  if (!word.empty() && word != "-") {
    TRY_ASSIGN(RunDir run, context.run_dir());
    TRY_ASSIGN(std::string dir, snap::find_snapshot(run, word));
    return SnapTarget{std::move(run), std::move(dir)};
  }
  TRY_ASSIGN(const json* document, context.input());
  const json* snap = find(*document, "snap");
  const std::string path = snap && snap->is_object() ? get_string(*snap, "path") : "";
  if (path.empty())
    return fail(Code::bad_document,
                "the input document names no snapshot (key \"snap\", \"path\")");
  TRY_ASSIGN(RunDir run, context.run_dir());
  return SnapTarget{std::move(run), absolute_path(path)};
}

void build_info(cli::Verb& verb) {
  build_on_one(verb, info);
}

void build_check(cli::Verb& verb) {
  build_on_one(verb, check);
}

void build_list(cli::Verb& verb) {
  auto all = std::make_shared<bool>(false);
  verb.flag("--all", *all, "Those of every scope");
  verb.run([all](cli::Context& context) { return list(context, *all); });
}

void build_delete(cli::Verb& verb) {
  struct Options {
    std::string snap;
    bool force = false;
  };
  auto options = std::make_shared<Options>();
  verb.positional("snap", options->snap,
                  "The snapshot (default: the one of the document on stdin)");
  verb.flag("--force", options->force, "Even while VMs run that were restored from it");
  verb.run([options](cli::Context& context) -> Result<int> {
    std::string word = options->snap;
    TRY_ASSIGN(const RunDir run, context.run_dir());
    if (word.empty()) {
      TRY_ASSIGN(const SnapTarget at, snap_target(context, ""));
      word = at.dir;
    }
    TRY_ASSIGN(const snap::Deletion done, snap::delete_snapshot(run, word, options->force));
    context.document()["snap"] = {{"path", done.path}, {"deleted", done.deleted}};
    TRY(context.emit());
    return 0;
  });
}

}  // namespace pv::snapcmd
