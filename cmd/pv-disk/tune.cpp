// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/text.hpp"
#include "blk/registry.hpp"
#include "serve/client.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct TuneOptions {
  std::string disk;
  std::vector<std::string> settings;
};

Result<json> tune(serve::DiskClient& client, const Object& disk, const blk::LayerSpec& layer) {
  auto reply = client.call({{"op", "layer.set"}, {"layer", layer.name}, {"params", layer.params}});
  if (reply || reply.error().code != Code::unsupported) return reply;
  return fail(Code::unsupported,
              fmt::format("disk '{}' has no layer '{}' that can change while it is served",
                          disk.display(), layer.name));
}

Result<int> act(cli::Context& context, TuneOptions options) {
  // The disk may come from the document, so the first word may be a setting.
  if (options.disk.find_first_of(":=") != std::string::npos)
    options.settings.insert(options.settings.begin(), std::exchange(options.disk, {}));
  if (options.settings.empty()) return fail(Code::usage, "say what to change, e.g. delay:ms=5");
  std::vector<blk::LayerSpec> layers;
  for (const std::string& text : options.settings) {
    TRY_ASSIGN(blk::LayerSpec layer, blk::parse_layer(text));
    if (layer.params.empty())
      return fail(Code::usage, fmt::format("'{}' sets nothing: NAME:KEY=VALUE is wanted", text));
    TRY(blk::check_layers({&layer, 1}));
    layers.push_back(std::move(layer));
  }
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  json tuned = json::object();
  for (const blk::LayerSpec& layer : layers) {
    TRY_ASSIGN(const json reply, tune(client, at.disk, layer));
    tuned[layer.name] = reply["layer"];
  }
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(at.disk, deadline));
  context.document()["tuned"] = tuned;
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_tune(cli::Verb& verb) {
  auto options = std::make_shared<TuneOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.rest("setting", options->settings, "NAME:KEY=VALUE,..., a layer and what to change of it");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
