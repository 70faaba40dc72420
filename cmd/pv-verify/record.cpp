// SPDX-License-Identifier: MIT
// record and mark: a disk whose writes are written down, and what is noted between them.
#include <CLI/CLI.hpp>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/params.hpp"
#include "serve/client.hpp"
#include "serve/spec.hpp"
#include "target/disk_target.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

struct RecordOptions {
  std::string log, image, format;
  bool append = false;
};

// The source of the flags, else of the document: what `pv-disk create` has made, for example.
Result<json> source_from(cli::Context& context, const RecordOptions& options) {
  serve::Spec spec;
  if (!options.image.empty()) {
    serve::SourceFlags flags;
    flags.image = options.image;
    flags.format = options.format;
    TRY(serve::set_source(spec, flags));
    return serve::source_json(spec);
  }
  TRY_ASSIGN(const json* document, context.input());
  const json* disk = find(*document, "disk");
  const json* source = disk ? find(*disk, "source") : nullptr;
  if (source == nullptr)
    return fail(Code::usage, "record: say --image, or give a document with disk.source");
  TRY(serve::set_source(spec, *source));
  return *source;
}

Result<int> record(cli::Context& context, const RecordOptions& options) {
  TRY_ASSIGN(const json source, source_from(context, options));
  blk::LayerSpec layer{"record", {{"file", absolute_path(options.log)}}};
  if (options.append) layer.params["append"] = "yes";
  json layers = json::array({blk::layer_text(layer)});
  json& disk = context.document()["disk"];
  if (!disk.is_object() || get_string(disk, "state") != "created") disk = json::object();
  if (const json* more = find(disk, "layers"); more && more->is_array())
    layers.insert(layers.begin(), more->begin(), more->end());
  disk["state"] = "created";
  disk["source"] = source;
  disk["layers"] = layers;
  TRY(context.emit());
  return 0;
}

struct MarkOptions {
  std::string name, disk;
};

Result<int> mark(cli::Context& context, const MarkOptions& options) {
  TRY_ASSIGN(target::DiskSession session, target::open_session(context, options.disk));
  auto reply = session.client.call({{"op", "record.mark"}, {"name", options.name}});
  if (!reply && reply.error().code == Code::unsupported)
    return fail(Code::unsupported, "disk '" + session.at.disk.display() +
                                       "' has no log (pv-verify record gives it one)");
  if (!reply) return fail(reply.error());
  context.document()["mark"] = {
      {"name", (*reply)["mark"]}, {"n", (*reply)["n"]}, {"log", (*reply)["file"]}};
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_record(cli::Verb& verb) {
  auto options = std::make_shared<RecordOptions>();
  verb.positional("log", options->log, "The log; it must not exist")->required();
  verb.option("--image", options->image, "PATH",
              "The image, or a URI (default: what the document on stdin names)");
  verb.option("--format", options->format, "NAME", "Format of the image");
  verb.flag("--append", options->append, "Go on with a log of this disk that is there");
  verb.run([options](cli::Context& context) { return record(context, *options); });
}

void build_mark(cli::Verb& verb) {
  auto options = std::make_shared<MarkOptions>();
  verb.positional("name", options->name, "The mark")->required();
  target::add_disk_flag(verb, options->disk);
  verb.run([options](cli::Context& context) { return mark(context, *options); });
}

}  // namespace pv::verifycmd
