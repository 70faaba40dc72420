// SPDX-License-Identifier: MIT
// replay, export and import: what a write log is good for.
#include "verify/log/replay.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/uri.hpp"
#include "serve/disk_object.hpp"
#include "serve/source.hpp"
#include "verbs.hpp"
#include "verify/log/dm_log.hpp"

namespace pv::verifycmd {
namespace {

struct ReplayOptions {
  std::string log, image, format, from, to;
  bool force = false;
};

// A file or a URI; else the name of a disk that is being served.
Result<std::string> image_name(cli::Context& context, const std::string& name) {
  if (blk::is_uri(name) || access(name.c_str(), F_OK) == 0) return name;
  TRY_ASSIGN(const RunDir run, context.run_dir());
  const auto disk = serve::find_disk(run, name);
  if (!disk) return fail(Code::no_image, "no image " + name + ", and no served disk of this name");
  TRY_ASSIGN(const json document, serve::disk_document(*disk));
  return get_string(document, "uri");
}

// For the sockets of a daemon that knows the format.
Result<std::string> scratch_folder(cli::Context& context) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  std::string path = fmt::format("{}/replay.tmp.{}", run.path(), getpid());
  TRY(make_dir(path));
  return path;
}

json to_json(const verify::Replayed& done) {
  json shown = {{"first", done.first},
                {"last", done.last},
                {"requests", done.requests},
                {"written_bytes", done.written_bytes},
                {"zeroed_bytes", done.zeroed_bytes},
                {"failed", done.failed},
                {"pending", done.pending},
                {"ignored", done.ignored},
                {"gaps", done.gaps}};
  add_log_end(shown, done.end);
  return shown;
}

Result<verify::Replayed> replay_onto(const std::string& image, const std::string& folder,
                                     const ReplayOptions& options) {
  TRY_ASSIGN(const blk::LogReader log, blk::LogReader::open(options.log));
  serve::Spec spec;
  spec.sector_size = spec.physical_sector_size = log.head().sector_size;
  serve::SourceFlags flags;
  flags.image = image;
  flags.format = options.format;
  TRY(serve::set_source(spec, flags));
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  serve::Source source(folder, *loop);
  TRY_ASSIGN(const std::unique_ptr<blk::Disk> disk, source.open(spec));
  verify::ReplayPlan plan;
  plan.from = verify::LogPoint::parse(options.from);
  plan.to = verify::LogPoint::parse(options.to);
  plan.force = options.force;
  return verify::replay(options.log, *disk, *loop, plan);
}

Result<int> replay(cli::Context& context, const ReplayOptions& options) {
  TRY_ASSIGN(const std::string image, image_name(context, options.image));
  TRY_ASSIGN(const std::string folder, scratch_folder(context));
  DEFER(remove_tree(folder));
  TRY_ASSIGN(const verify::Replayed done, replay_onto(image, folder, options));
  context.document()["replay"] = to_json(done);
  TRY(context.emit());
  if (done.gaps != 0)
    cli::say(
        fmt::format("pv-verify replay: the log {} has gaps ({}): what changed the disk there is "
                    "not in it",
                    printable(options.log), done.gaps));
  if (done.end.whole || !options.to.empty()) return 0;
  cli::say(fmt::format("pv-verify replay: the log {} is not whole: replayed up to request {}",
                       printable(options.log), done.last));
  return 1;
}

struct FileOptions {
  std::string log, out, size;
};

json to_json(const verify::Converted& done, const std::string& out) {
  return {{"log", absolute_path(out)}, {"entries", done.entries},   {"data_bytes", done.data_bytes},
          {"marks", done.marks},       {"left_out", done.left_out}, {"whole", done.whole}};
}

Result<int> export_log(cli::Context& context, const FileOptions& options) {
  TRY_ASSIGN(const verify::Converted done, verify::export_dm_log(options.log, options.out));
  json& shown = context.document()["export"];
  shown = to_json(done, options.out);
  shown["gaps"] = done.end.gaps;
  add_log_end(shown, done.end);
  TRY(context.emit());
  return 0;
}

Result<int> import_log(cli::Context& context, const FileOptions& options) {
  uint64_t size = 0;
  if (!options.size.empty()) {
    TRY_ASSIGN(size, parse_size(options.size));
  }
  TRY_ASSIGN(const verify::Converted done, verify::import_dm_log(options.log, options.out, size));
  context.document()["import"] = to_json(done, options.out);
  context.document()["import"].erase("left_out");
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_replay(cli::Verb& verb) {
  auto options = std::make_shared<ReplayOptions>();
  verb.positional("log", options->log, "The log")->required();
  verb.positional("image", options->image, "A file, a URI, or the name of a served disk")
      ->required();
  verb.option("--to", options->to, "POINT",
              "Up to and with this request or mark (default: all of it)");
  verb.option("--from", options->from, "POINT", "What comes after this request or mark");
  verb.option("--format", options->format, "NAME", "Format of the image");
  verb.flag("--force", options->force, "Onto an image that the log cannot be of");
  verb.run([options](cli::Context& context) { return replay(context, *options); });
}

void build_export(cli::Verb& verb) {
  auto options = std::make_shared<FileOptions>();
  verb.positional("log", options->log, "The log")->required();
  verb.positional("out", options->out, "The log of dm-log-writes; it must not exist")->required();
  verb.run([options](cli::Context& context) { return export_log(context, *options); });
}

void build_import(cli::Verb& verb) {
  auto options = std::make_shared<FileOptions>();
  verb.positional("log", options->log, "The log of dm-log-writes")->required();
  verb.positional("out", options->out, "The log; it must not exist")->required();
  verb.option("--size", options->size, "SIZE", "Capacity of the disk (default: not known)");
  verb.run([options](cli::Context& context) { return import_log(context, *options); });
}

}  // namespace pv::verifycmd
