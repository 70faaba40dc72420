// SPDX-License-Identifier: MIT
// compare: every range in which two disks differ.
#include "verify/compare.hpp"

#include <algorithm>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/units.hpp"
#include "image.hpp"
#include "progress.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

constexpr unsigned k_default_jobs = 8;  // at most
constexpr size_t k_map_width = 64;      // where no terminal says how wide it is
constexpr size_t k_map_margin = 20;     // what stands before it there

size_t map_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0) return k_map_width;
  return std::max<size_t>(size.ws_col, 2 * k_map_margin) - k_map_margin;
}

struct CompareOptions {
  ImageFlags a, b;
  std::string merge, jobs;
  bool allow_size = false, summary = false, map = false;
};

// The disk from left to right, one character for each part.
std::string drawn(const std::vector<verify::Cell>& cells) {
  std::string line;
  for (const verify::Cell& cell : cells) {
    if (cell.differing != 0)
      line += cell.differing == cell.compared ? '#' : 'x';
    else
      line += cell.compared == 0 ? ' ' : '.';
  }
  return line;
}

json to_json(const verify::Difference& one) {
  return {{"offset_bytes", one.offset},
          {"length_bytes", one.length},
          {"differing_bytes", one.differing},
          {"a_zero", one.a_zero},
          {"b_zero", one.b_zero}};
}

// Ranges as they are found: nobody knows how many there will be.
class Printer {
 public:
  Printer(cli::Context& context, const CompareOptions& options, Progress& progress)
      : context_(context), options_(options), progress_(progress) {}

  Result<> operator()(const verify::Difference& one) {
    if (options_.summary) return {};
    if (!context_.text_output() || context_.selects_field())
      return context_.emit_line({{"v", cli::k_document_version}, {"range", to_json(one)}});
    progress_.clear();
    if (!std::exchange(headed_, true))
      TRY(context_.emit_raw(
          fmt::format("{:>16} {:>16} {:>16}\n", "offset", "length", "differing")));
    const char* note = one.a_zero ? "  zero in A" : one.b_zero ? "  zero in B" : "";
    return context_.emit_raw(
        fmt::format("{:>16} {:>16} {:>16}{}\n", one.offset, one.length, one.differing, note));
  }

 private:
  cli::Context& context_;
  const CompareOptions& options_;
  Progress& progress_;
  bool headed_ = false;
};

Result<> check_sizes(const OpenImage& a, const OpenImage& b, const CompareOptions& options) {
  if (a.image->size() == b.image->size() || options.allow_size) return {};
  return fail(Code::invalid,
              fmt::format("{} has {} bytes and {} has {}; --allow-size compares them all the same",
                          options.a.name, a.image->size(), options.b.name, b.image->size()));
}

Result<verify::CompareOptions> parse(const CompareOptions& options) {
  verify::CompareOptions how;
  const unsigned processors = std::max(1U, std::thread::hardware_concurrency());
  TRY_ASSIGN(how.jobs, parse_jobs(options.jobs, std::min(k_default_jobs, processors)));
  if (!options.merge.empty()) {
    TRY_ASSIGN(how.merge, parse_size(options.merge));
  }
  return how;
}

Result<int> act(cli::Context& context, const CompareOptions& options) {
  TRY_ASSIGN(verify::CompareOptions how, parse(options));
  TRY_ASSIGN(how.deadline, context.deadline(UINT64_MAX));
  const uint64_t start_ns = system_clock().now_ns();
  TRY_ASSIGN(const OpenImage a, open_image(context, options.a, how.deadline));
  TRY_ASSIGN(const OpenImage b, open_image(context, options.b, how.deadline));
  if (a.identity == b.identity)
    return fail(Code::usage, fmt::format("{} and {} are the same disk: nothing to compare",
                                         options.a.name, options.b.name));
  TRY(check_sizes(a, b, options));
  const uint64_t size = std::max(a.image->size(), b.image->size());
  std::vector<verify::Cell> cells(map_width());
  if (options.map) how.map = &cells;
  Progress progress(size);
  how.progress = [&](uint64_t at) { progress.at(at); };
  TRY_ASSIGN(const verify::Totals totals,
             verify::compare(*a.image, *b.image, how, Printer(context, options, progress)));
  progress.clear();
  const uint64_t took_ns = system_clock().now_ns() - start_ns;
  const bool equal = totals.ranges == 0;
  json summary = {{"equal", equal},
                  {"ranges", totals.ranges},
                  {"differing_bytes", totals.differing},
                  {"first_bytes", equal ? json(nullptr) : json(totals.first)},
                  {"size_bytes", totals.size},
                  {"compared_bytes", totals.compared},
                  {"a_size_bytes", a.image->size()},
                  {"b_size_bytes", b.image->size()},
                  {"a_read_by", a.way},
                  {"b_read_by", b.way},
                  {"duration_ms", static_cast<double>(took_ns / 1000) / 1e3}};
  if (options.map) summary["map"] = drawn(cells);
  const json line = {{"v", cli::k_document_version}, {"summary", summary}};
  TRY(options.summary ? context.emit(line) : context.emit_line(line));
  return equal ? 0 : 1;
}

}  // namespace

void build_compare(cli::Verb& verb) {
  auto options = std::make_shared<CompareOptions>();
  verb.positional("a", options->a.name, "A file, a URI, or the name of a served disk")->required();
  verb.positional("b", options->b.name, "The other one")->required();
  verb.option("--format-a", options->a.format, "FORMAT",
              "Format of A, where its name does not say");
  verb.option("--format-b", options->b.format, "FORMAT",
              "Format of B, where its name does not say");
  verb.option("--key-file-a", options->a.key_file, "PATH", "The passphrase of A: the whole file");
  verb.option("--key-file-b", options->b.key_file, "PATH", "The passphrase of B: the whole file");
  verb.flag("--allow-size", options->allow_size, "The end of the larger disk against zeroes");
  verb.option("--merge", options->merge, "SIZE",
              "Less equal bytes between two differences join them (default: 512)");
  verb.flag("--summary", options->summary, "Print the summary only");
  verb.flag("--map", options->map, "Show in the summary where the differences lie");
  verb.option("--jobs", options->jobs, "N", "Threads, 1 to 64 (default: processors, at most 8)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
