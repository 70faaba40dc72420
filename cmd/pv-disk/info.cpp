// SPDX-License-Identifier: MIT
// info, size, stats, list: the verbs that only look.
#include <fmt/format.h>

#include "base/text.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

Result<int> show(cli::Context& context, const std::string& name,
                 const std::function<Result<json>(const Object&, const Deadline&)>& make) {
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, name));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(context.document()["disk"], make(at.disk, deadline));
  TRY(context.emit());
  return 0;
}

Result<json> size_of(const Object& disk, const Deadline& deadline) {
  TRY_ASSIGN(const json state, serve::disk_document(disk));
  if (get_string(state, "state") == "detached")
    return fail(Code::detached, fmt::format("disk '{}' is detached", disk.display()));
  TRY_ASSIGN(const json document, target::live_disk_document(disk, deadline));
  json size;
  for (const char* key :
       {"id", "scope", "vm", "state", "size_bytes", "sector_size", "image_bytes", "image_differs"})
    if (const json* value = find(document, key)) size[key] = *value;
  return size;
}

Result<json> stats_of(const Object& disk, const Deadline& deadline, bool reset) {
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(disk, deadline));
  TRY_ASSIGN(const json reply, client.call({{"op", "stats"}}));
  TRY_ASSIGN(json document, serve::disk_document(disk));
  document["stats"] = reply["stats"];
  if (reset) {
    if (auto done = client.call({{"op", "stats.reset"}}); !done)
      return fail(done.error().code == Code::unsupported
                      ? Error(Code::unsupported, "--reset needs a layer 'stats' on the disk")
                      : done.error());
  }
  return document;
}

Result<int> list(cli::Context& context, bool all) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  for (const Object& disk : run.list("disk", all)) {
    auto document = serve::disk_document(disk);
    if (!document) continue;  // closed while we looked
    TRY(context.emit({{"v", cli::k_document_version}, {"disk", *document}}));
  }
  return 0;
}

template <class Make>
void build_show(cli::Verb& verb, Make make) {
  auto name = std::make_shared<std::string>();
  verb.positional("disk", *name, "The disk (default: the one of the document on stdin)");
  verb.run([name, make](cli::Context& context) { return show(context, *name, make); });
}

}  // namespace

void build_info(cli::Verb& verb) {
  build_show(verb, target::live_disk_document);
}
void build_size(cli::Verb& verb) {
  build_show(verb, size_of);
}
void build_stats(cli::Verb& verb) {
  auto name = std::make_shared<std::string>();
  auto reset = std::make_shared<bool>(false);
  verb.positional("disk", *name, "The disk (default: the one of the document on stdin)");
  verb.flag("--reset", *reset, "Then start the figures of the layer 'stats' anew");
  verb.run([name, reset](cli::Context& context) {
    return show(context, *name, [reset](const Object& disk, const Deadline& deadline) {
      return stats_of(disk, deadline, *reset);
    });
  });
}

void build_list(cli::Verb& verb) {
  auto all = std::make_shared<bool>(false);
  verb.flag("--all", *all, "The disks of every scope");
  verb.run([all](cli::Context& context) { return list(context, *all); });
}

}  // namespace pv::diskcmd
