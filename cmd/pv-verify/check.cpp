// SPDX-License-Identifier: MIT
// check: what became of the blocks that fill has written.
#include <fmt/format.h>

#include "base/json.hpp"
#include "filling.hpp"
#include "progress.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

struct CheckOptions {
  FillingFlags filling;
  bool summary = false;
};

json to_json(const verify::FillOptions& options, uint64_t offset,
             const verify::BlockReport& report) {
  json bad = {{"offset_bytes", offset},
              {"length_bytes", options.id.size},
              {"class", damage_name(report.verdict.damage)},
              {"bits", report.verdict.bits},
              {"sectors", report.verdict.units},
              {"first_sectors", report.sectors}};
  if (report.generation) bad["generation"] = *report.generation;
  if (report.from) bad["from_bytes"] = *report.from;
  if (report.seed) bad["seed"] = std::to_string(*report.seed);
  return bad;
}

// What a person wants to know of a bad block besides its class.
std::string note_of(const verify::BlockReport& report) {
  if (report.from) return fmt::format("belongs to {}", *report.from);
  if (report.generation) return fmt::format("generation {}", *report.generation);
  return fmt::format("{} bits", report.verdict.bits);
}

Result<int> act(cli::Context& context, const CheckOptions& options) {
  TRY_ASSIGN(Filling filling, open_filling(context, options.filling, true));
  Progress progress(filling.disk.image->size());
  filling.options.progress = [&](uint64_t done) { progress.at(done); };
  const auto print = [&](uint64_t offset, const verify::BlockReport& report) -> Result<> {
    if (options.summary) return {};
    if (!context.text_output() || context.selects_field())
      return context.emit_line(
          {{"v", cli::k_document_version}, {"bad", to_json(filling.options, offset, report)}});
    progress.clear();
    return context.emit_raw(fmt::format("{:>16} {:<12} {}\n", offset,
                                        damage_name(report.verdict.damage), note_of(report)));
  };
  const uint64_t start_ns = system_clock().now_ns();
  TRY_ASSIGN(const verify::CheckTotals totals,
             verify::check(*filling.disk.image, filling.options, print));
  progress.clear();
  const uint64_t took_ns = system_clock().now_ns() - start_ns;
  json summary = {{"good", totals.bad == 0}, {"blocks", totals.blocks}, {"bad", totals.bad}};
  for (size_t i = 1; i < totals.by_damage.size(); ++i)
    summary[damage_name(static_cast<verify::Damage>(i))] = totals.by_damage[i];
  summary["duration_ms"] = static_cast<double>(took_ns / 1000) / 1e3;
  const json line = {{"v", cli::k_document_version},
                     {"summary", summary},
                     {"fill", filling_json(filling.options)}};
  TRY(options.summary ? context.emit(line) : context.emit_line(line));
  return totals.bad == 0 ? 0 : 1;
}

}  // namespace

void build_check(cli::Verb& verb) {
  auto options = std::make_shared<CheckOptions>();
  add_filling_flags(verb, options->filling);
  verb.flag("--summary", options->summary, "Print the summary only");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
