// SPDX-License-Identifier: MIT
// fill: blocks that say of themselves where they belong.
#include <fmt/format.h>

#include "base/json.hpp"
#include "filling.hpp"
#include "progress.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

struct FillOptions {
  FillingFlags filling;
  std::string order;
  bool resume = false;
};

Result<int> act(cli::Context& context, const FillOptions& options) {
  if (!options.order.empty() && options.order != "sequential" && options.order != "random")
    return fail(Code::usage, fmt::format("--order: sequential or random, not '{}'", options.order));
  TRY_ASSIGN(Filling filling, open_filling(context, options.filling, false));
  filling.options.random = options.order == "random";
  filling.options.resume = options.resume;
  Progress progress(filling.disk.image->size());
  filling.options.progress = [&](uint64_t done) { progress.at(done); };
  const uint64_t start_ns = system_clock().now_ns();
  TRY_ASSIGN(const verify::FillTotals totals, verify::fill(*filling.disk.image, filling.options));
  progress.clear();
  const uint64_t took_ns = system_clock().now_ns() - start_ns;
  json fill = filling_json(filling.options);
  fill.update(filling.disk.reference.value("fill", json::object()));
  fill["order"] = filling.options.random ? "random" : "sequential";
  fill["blocks"] = totals.blocks;
  fill["written_blocks"] = totals.written;
  fill["kept_blocks"] = totals.kept;
  fill["duration_ms"] = static_cast<double>(took_ns / 1000) / 1e3;
  context.document()["fill"] = fill;
  if (filling.disk.reference.contains("disk"))
    context.document()["disk"] = filling.disk.reference["disk"];
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_fill(cli::Verb& verb) {
  auto options = std::make_shared<FillOptions>();
  add_filling_flags(verb, options->filling);
  verb.option("--order", options->order, "ORDER", "sequential (default) or random");
  verb.flag("--resume", options->resume, "Write only blocks that are not what they should be");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
