// SPDX-License-Identifier: MIT
// sweep: the same command once for each request that it makes, that one failing.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <sched.h>
#include <sys/prctl.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/rng.hpp"
#include "base/units.hpp"
#include "blk/params.hpp"
#include "sweep_rule.hpp"
#include "sweep_schedule.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

constexpr uint64_t k_max_jobs = 256;
constexpr uint64_t k_max_runs = 1'000'000'000;

struct SweepOptions {
  serve::SourceFlags source;
  std::vector<std::string> layers;
  RuleFlags rule;
  std::string from = "1", max = "10000", jobs, run_timeout = "60s", check;
  bool keep = false;
  std::vector<std::string> argv;
};

Result<uint64_t> parse_positive(const char* flag, const std::string& text, uint64_t most) {
  TRY_ASSIGN(const uint64_t number, parse_count(flag, text));
  if (number == 0) return fail(Code::usage, fmt::format("{} 0: the first is 1", flag));
  if (number > most) return fail(Code::usage, fmt::format("{} {}: at most {}", flag, number, most));
  return number;
}

uint64_t processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) < 0) return 1;
  return std::clamp<uint64_t>(static_cast<uint64_t>(CPU_COUNT(&set)), 1, k_max_jobs);
}

Result<SweepBounds> bounds_from(const SweepOptions& options) {
  SweepBounds bounds;
  TRY_ASSIGN(bounds.from, parse_positive("--from", options.from, k_max_runs));
  TRY_ASSIGN(bounds.max, parse_positive("--max", options.max, k_max_runs));
  bounds.jobs = processors();
  if (!options.jobs.empty()) {
    TRY_ASSIGN(bounds.jobs, parse_positive("--jobs", options.jobs, k_max_jobs));
  }
  return bounds;
}

Result<serve::Spec> spec_from(const SweepOptions& options) {
  if (options.source.image.empty() == options.source.memory.empty())
    return fail(Code::usage, "a sweep has exactly one source: --image or --memory");
  serve::Spec spec;
  TRY(serve::set_source(spec, options.source));
  spec.layers = options.layers;
  for (const std::string& text : spec.layers) {
    TRY_ASSIGN(const blk::LayerSpec layer, blk::parse_layer(text));
    if (layer.name == "cow")
      return fail(Code::usage, "--layer cow: a sweep gives each run an overlay by itself");
  }
  return spec;
}

Result<SweepPlan> plan_from(cli::Context& context, const SweepOptions& options) {
  SweepPlan plan;
  TRY_ASSIGN(plan.spec, spec_from(options));
  plan.keep = options.keep;
  plan.overlay = options.keep || options.source.memory.empty();
  TRY_ASSIGN(plan.rule, sweep_rule(options.rule));
  plan.argv = options.argv;
  plan.check = options.check;
  TRY_ASSIGN(plan.run_timeout_ns, parse_duration(options.run_timeout));
  if (plan.run_timeout_ns == 0) return fail(Code::usage, "--run-timeout 0: no run would end");
  TRY_ASSIGN(plan.talk_timeout_ns, context.timeout_ns(target::k_default_timeout_ns));
  TRY_ASSIGN(const RunDir run, context.run_dir());
  plan.disk = fmt::format("sweep-{:08x}", static_cast<uint32_t>(fresh_seed()));
  plan.scope = run.scope() + "/" + plan.disk;
  return plan;
}

Result<std::string> make_folder() {
  const char* folder = getenv("TMPDIR");
  std::string path = absolute_path(folder && *folder ? folder : "/tmp") + "/pv-sweep.XXXXXX";
  if (!mkdtemp(path.data())) return fail_errno("cannot create " + path, errno);
  return path;
}

// As if it had reached us with nothing to put away.
void die_of(int number) {
  signal(number, SIG_DFL);
  raise(number);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

Result<int> act(cli::Context& context, const SweepOptions& options) {
  TRY_ASSIGN(const SweepBounds bounds, bounds_from(options));
  TRY_ASSIGN(SweepPlan plan, plan_from(context, options));
  TRY_ASSIGN(plan.dir, make_folder());
  DEFER(rmdir(plan.dir.c_str()));  // stays while there is an overlay to keep
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1UL);  // what a run leaves behind is ours to end
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  Sweep sweep(context, *loop, plan, bounds);
  auto done = sweep.run();
  if (sweep.signal() != 0) {
    rmdir(plan.dir.c_str());
    die_of(sweep.signal());
  }
  return done;
}

}  // namespace

void build_sweep(cli::Verb& verb) {
  auto options = std::make_shared<SweepOptions>();
  verb.tail("command", options->argv, "The command and its arguments, after '--'");
  verb.option("--image", options->source.image, "PATH",
              "Each run gets an overlay over this image, or over what a URI names");
  verb.option("--memory", options->source.memory, "SIZE", "Each run gets a blank disk in memory");
  verb.option("--format", options->source.format, "NAME",
              "Format of the image (default: by its extension, where the content agrees)");
  verb.option("--layer", options->layers, "NAME:KEY=VALUE",
              "Put a layer on the disk, outermost first (can be repeated)");
  add_sweep_rule_flags(verb, options->rule);
  verb.option("--from", options->from, "K", "Begin with the K-th request (default: 1)");
  verb.option("--max", options->max, "N", "At most so many runs (default: 10000)");
  verb.option("--jobs", options->jobs, "N", "So many runs at a time (default: the processors)");
  verb.option("--run-timeout", options->run_timeout, "DURATION",
              "A command or check that takes longer is hung, and killed (default: 60s)");
  verb.option("--check", options->check, "PROGRAM",
              "Look at the disk after each command, without faults: a line for sh");
  verb.flag("--keep", options->keep, "Keep the overlay of each disk that was corrupted");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
