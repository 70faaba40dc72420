// SPDX-License-Identifier: MIT
#include "snap/fixture.hpp"

#include <cerrno>
#include <cstdlib>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/scope/scope.hpp"

namespace pv::snapcmd {
namespace {

constexpr uint64_t k_build_ns = 600 * k_ns_per_s;
constexpr uint64_t k_teardown_ns = 30 * k_ns_per_s;
// Says to the second half, which runs in a scope of its own, where the snapshot goes.
constexpr const char* k_into = "PV_FIXTURE_INTO";
constexpr const char* k_error_suffix = ".error";
constexpr size_t k_max_error = 1 << 20;

struct FixtureOptions {
  snap::Fixture fixture;
  bool list = false, stale = false, clean = false;
};

Result<int> look(cli::Context& context, const FixtureOptions& options) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY_ASSIGN(const std::vector<json> entries, snap::list_fixtures(run));
  for (json entry : entries) {
    if (!options.fixture.name.empty() && get_string(entry, "fixture") != options.fixture.name)
      continue;
    if (options.stale && !find(entry, "problem")) continue;
    if (options.clean) {
      const auto deleted = snap::delete_fixture(entry);
      entry["deleted"] = static_cast<bool>(deleted);
      if (!deleted) entry["problem"] = deleted.error().message;
    }
    TRY(context.emit({{"v", cli::k_document_version}, {"snap", entry}}));
  }
  return 0;
}

// The second half. Nothing goes to stdout: that is the first half's.
Result<int> build_into(const cli::Context& context, const FixtureOptions& options,
                       const std::string& into) {
  unsetenv(k_into);
  const auto built = [&]() -> Result<> {
    TRY_ASSIGN(const Deadline deadline, context.deadline(k_build_ns));
    TRY_ASSIGN(const RunDir run, context.run_dir());
    return snap::build_fixture(run, options.fixture.builder, into, deadline);
  }();
  if (built) return 0;
  TRY(write_file_atomic(into + k_error_suffix, to_line(error_to_json(built.error()))));
  return exit_class(built.error().code);
}

Result<std::string> own_program() {
  char path[4096] = {};
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return fail_errno("readlink", errno);
  return std::string(path);
}

Result<> build(const cli::Context& context, const RunDir& run, const FixtureOptions& options,
               const std::string& into) {
  TRY_ASSIGN(const uint64_t timeout_ns, context.timeout_ns(k_build_ns));
  TRY_ASSIGN(const std::string program, own_program());
  std::vector<std::string> argv = {program,
                                   "fixture",
                                   options.fixture.name,
                                   "--timeout",
                                   fmt::format("{}ms", timeout_ns / k_ns_per_ms),
                                   "--"};
  argv.insert(argv.end(), options.fixture.builder.begin(), options.fixture.builder.end());
  const std::string note = into + k_error_suffix;
  unlink(note.c_str());
  setenv(k_into, into.c_str(), 1);
  TRY_ASSIGN(const std::string scope,
             vm::scope_path(run, fmt::format("fixture-{:08x}", fresh_seed() & 0xffffffff)));
  const auto status = vm::run_in_scope(scope, argv, k_teardown_ns);
  unsetenv(k_into);
  const auto said = read_file(note, k_max_error);
  unlink(note.c_str());
  if (said)
    if (const auto error = parse_json(*said)) return fail(error_from_json(*error));
  TRY(status);
  if (*status == 0) return {};
  return fail(Code::aborted, fmt::format("building the fixture ended with status {}", *status));
}

Result<int> act(cli::Context& context, const FixtureOptions& options) {
  const bool looks = options.list || options.clean || options.stale;
  if (looks && !options.fixture.builder.empty())
    return fail(Code::usage, "--list, --stale and --clean take no builder");
  if (looks) return look(context, options);
  if (options.fixture.name.empty()) return fail(Code::usage, "name the fixture");
  if (options.fixture.builder.empty())
    return fail(Code::usage, "put the builder after '--': pv-snap fixture NAME -- COMMAND");
  if (const char* into = getenv(k_into)) return build_into(context, options, into);
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY(snap::max_fixture_bytes());  // before anything is built
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_build_ns));
  TRY_ASSIGN(const snap::FixturePlace place, snap::find_fixture(run, options.fixture));
  TRY_ASSIGN(
      const snap::Fetched fetched,
      snap::fetch_fixture(
          run, place, [&](const std::string& into) { return build(context, run, options, into); },
          deadline));
  if (!fetched.hit) TRY(snap::trim_fixtures(run));
  json snap = snap::snap_document(fetched.bundle);
  snap["fixture"] = options.fixture.name;
  snap["key"] = place.key;
  snap["hit"] = fetched.hit;
  context.document()["snap"] = std::move(snap);
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_fixture(cli::Verb& verb) {
  auto options = std::make_shared<FixtureOptions>();
  snap::Fixture& fixture = options->fixture;
  verb.positional("name", fixture.name, "Name of the fixture");
  verb.option("--key", fixture.keys, "TEXT", "What else it depends on (can be repeated)");
  verb.option("--file", fixture.files, "FILE",
              "A file that it depends on, by content (can be repeated)");
  verb.option("--profile", fixture.profile, "NAME",
              "The profile that the builder boots (default: tiny)");
  verb.option("--config", fixture.config_file, "FILE",
              "Where profiles are (default: $PROVIUM_CONFIG, else provium.toml here or above)");
  verb.flag("--list", options->list, "List what is in the cache, of this name or all");
  verb.flag("--stale", options->stale, "List only what cannot be restored on this machine");
  verb.flag("--clean", options->clean, "Delete what would be listed");
  verb.optional_tail("builder", fixture.builder,
                     "What boots the VM and leaves it as it is to be: the VM, or the snapshot, "
                     "of its last document");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::snapcmd
