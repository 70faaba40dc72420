// SPDX-License-Identifier: MIT
// mirror: a disk that is compared with a reference, or with what was written to it before.
#include <algorithm>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/backing.hpp"
#include "blk/format.hpp"
#include "blk/params.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "target/disk_target.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

constexpr const char* k_scrub_rate = "64M";

struct MirrorOptions {
  std::string id, test, test_format, test_key_file, reference, reference_key_file, history,
      on_mismatch, hold, scrub_rate;
  std::vector<std::string> layers;
  bool assume_identical = false, scrub = false, read_only = false;
};

// Whether `path`, an overlay, keeps only what differs from `other`. What looks like an overlay in a
// raw image is the guest's own.
bool stands_on(const std::string& path, const std::string& format, const std::string& other) {
  const std::string chosen = format.empty() ? blk::format_of_extension(path) : format;
  if (chosen == "raw") return false;
  const std::vector<std::string> files = blk::backing_files(path);
  return std::any_of(files.begin(), files.end(),
                     [&](const std::string& file) { return blk::same_file(file, other); });
}

// The same file under two names is no second opinion, and an overlay and its backing file end both
// when one of them is written to.
Result<> check_files(const MirrorOptions& options) {
  const std::string &test = options.test, &reference = options.reference;
  if (test == reference || blk::same_file(test, reference))
    return fail(Code::usage, fmt::format("--test and --reference are the same, {}", test));
  const bool above = stands_on(test, options.test_format, reference);
  if (above || stands_on(reference, "", test))
    return fail(Code::usage, fmt::format("{} is an overlay on {}: they are no two legs",
                                         above ? test : reference, above ? reference : test));
  return {};
}

Result<> check(const MirrorOptions& options) {
  if (options.test.empty()) return fail(Code::usage, "say which disk is tested: --test DISK");
  if (options.reference.empty() == options.history.empty())
    return fail(Code::usage, "one of --reference DISK and --history FILE is wanted");
  if (!options.reference_key_file.empty() && options.reference.empty())
    return fail(Code::usage, "--reference-key-file belongs to --reference");
  if (!options.scrub_rate.empty() && !options.scrub)
    return fail(Code::usage, "--scrub-rate belongs to --scrub");
  if (!options.scrub_rate.empty()) {
    TRY_ASSIGN(const uint64_t rate, parse_size(options.scrub_rate));
    if (rate == 0)
      return fail(Code::usage, "--scrub-rate 0 would compare nothing: leave --scrub out");
  }
  return options.reference.empty() ? Result<>() : check_files(options);
}

// Outermost the comparison; on the leg under test what was asked for, and a fault layer, so that
// pv-fault makes that leg misbehave and not the mirror.
std::vector<std::string> layers_of(const MirrorOptions& options) {
  const bool with_reference = !options.reference.empty();
  blk::LayerSpec compare{with_reference ? "mirror" : "history", {}};
  if (with_reference)
    compare.params["with"] = options.reference;
  else
    compare.params["file"] = options.history;
  if (!options.reference_key_file.empty()) compare.params["key-file"] = options.reference_key_file;
  if (!options.on_mismatch.empty()) compare.params["on-mismatch"] = options.on_mismatch;
  if (!options.hold.empty()) compare.params["hold"] = options.hold;
  if (options.scrub)
    compare.params["scrub"] = options.scrub_rate.empty() ? k_scrub_rate : options.scrub_rate;
  if (options.assume_identical) compare.params["identical"] = "assume";
  std::vector<std::string> layers = {blk::layer_text(compare)};
  bool has_fault = false;
  for (const std::string& layer : options.layers) {
    layers.push_back(layer);
    has_fault = has_fault || layer == "fault" || layer.rfind("fault:", 0) == 0;
  }
  if (!has_fault) layers.emplace_back("fault");
  return layers;
}

Result<serve::Spec> spec_of(const MirrorOptions& options, const std::string& id) {
  serve::Spec spec;
  serve::SourceFlags flags;
  flags.image = options.test;
  flags.format = options.test_format;
  flags.key_file = options.test_key_file;
  TRY(serve::set_source(spec, flags));
  spec.layers = layers_of(options);
  spec.read_only = options.read_only;
  TRY(serve::complete(spec, id));
  return spec;
}

// A document for `pv-disk attach` and `serve`, with what came in passed on where something did.
Result<int> describe(cli::Context& context, const MirrorOptions& options) {
  struct stat st {};
  const bool nothing = fstat(STDIN_FILENO, &st) != 0 || S_ISCHR(st.st_mode);
  if (context.input_from_file() || !nothing) TRY(context.input());
  TRY_ASSIGN(const serve::Spec spec, spec_of(options, "mirror"));
  context.document()["disk"] = {{"state", "created"},
                                {"source", serve::source_json(spec)},
                                {"layers", spec.layers},
                                {"read_only", spec.read_only}};
  TRY(context.emit());
  return 0;
}

Result<int> act(cli::Context& context, const MirrorOptions& options) {
  TRY(check(options));
  if (options.id.empty()) return describe(context, options);
  TRY(check_name("disk", options.id));
  TRY_ASSIGN(const serve::Spec spec, spec_of(options, options.id));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY_ASSIGN(const Object disk, run.create("disk", "", options.id));
  if (auto state = serve::start_server(disk, spec, deadline); !state) {
    static_cast<void>(serve::close_disk(run, disk));
    return fail(state.error());
  }
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(disk, deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_mirror(cli::Verb& verb) {
  auto options = std::make_shared<MirrorOptions>();
  verb.positional("id", options->id,
                  "Serve it as a disk of this name (default: print a document for pv-disk)");
  verb.option("--test", options->test, "DISK", "The disk under test: an image or a URI");
  verb.option("--test-format", options->test_format, "FORMAT",
              "Its format (default: by its extension, where the content agrees)");
  verb.option("--test-key-file", options->test_key_file, "PATH",
              "Its passphrase, where it is encrypted: the whole file, a newline included");
  verb.option("--reference", options->reference, "DISK",
              "What it is compared with: an image or a URI");
  verb.option("--reference-key-file", options->reference_key_file, "PATH",
              "The passphrase of an encrypted reference: the whole file, a newline included");
  verb.option("--history", options->history, "FILE",
              "Compare with checksums of what was written, kept in this file, instead");
  verb.option("--on-mismatch", options->on_mismatch, "POLICY",
              "What is answered: report (default), eio, hold or stop_vm");
  verb.option("--hold", options->hold, "DURATION",
              "Hold a request at most this long (default: 1m)");
  verb.flag("--assume-identical", options->assume_identical,
            "Do not compare the legs, or history and disk, at the start");
  verb.flag("--scrub", options->scrub, "Compare in the background too, while nothing else happens");
  verb.option("--scrub-rate", options->scrub_rate, "SIZE", "Bytes a second for it (default: 64M)");
  verb.option("--layer", options->layers, "NAME:KEY=VALUE",
              "Put a layer on the disk under test, outermost first (can be repeated)");
  verb.flag("--read-only", options->read_only, "Refuse every change");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
