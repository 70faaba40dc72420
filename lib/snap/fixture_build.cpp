// SPDX-License-Identifier: MIT
// What a builder leaves becomes a snapshot.
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "snap/fixture.hpp"
#include "snap/store.hpp"
#include "snap/take.hpp"
#include "vm/vm_object.hpp"

namespace pv::snap {
namespace {

constexpr size_t k_max_words = 64 << 20;

// Runs it to its end; what it has said on stdout.
Result<std::string> run_builder(const std::vector<std::string>& builder, const Deadline& deadline) {
  int pipe[2];
  if (pipe2(pipe, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  const Fd in(pipe[0]);
  Fd out(pipe[1]);
  SpawnOptions options;
  options.argv = builder;
  options.stdout_fd = out.get();
  options.stderr_fd = STDERR_FILENO;
  TRY_ASSIGN(Child child, spawn(options));
  out.reset();
  TRY_ASSIGN(std::string words, read_all(in.get(), k_max_words, "the builder's output", deadline));
  TRY_ASSIGN(const ExitStatus status, child.wait(deadline));
  if (status.signal != 0 || status.code != 0)
    return fail(Code::aborted, fmt::format("the builder failed: {}", status.describe()));
  return words;
}

// The last document that says a VM or a snapshot.
json last_document(const std::string& words) {
  json last;
  for (const std::string& line : split(words, '\n')) {
    auto document = parse_json(line);
    if (document && document->is_object() && (find(*document, "vm") || find(*document, "snap")))
      last = std::move(*document);
  }
  return last;
}

// Whether the builder has taken it, to go with its scope.
bool is_of_scope(const RunDir& run, const std::string& dir) {
  for (const Object& place : run.list(k_snap_kind))
    if (place.scope == run.scope() && place.path(k_bundle_dir) == dir) return true;
  return false;
}

Result<Object> vm_of(const RunDir& run, const json& document) {
  if (const json* vm = find(document, "vm")) return vm::find_vm(run, get_string(*vm, "name"));
  std::vector<Object> running;
  for (const Object& vm : run.list("vm"))
    if (const auto state = vm.load();
        vm.scope == run.scope() && state && vm::is_running(vm::actual_state(vm, *state)))
      running.push_back(vm);
  if (running.size() == 1) return running.front();
  return fail(Code::invalid,
              fmt::format("the builder left {} VMs running and named none: let its last line be "
                          "the document of a VM or of a snapshot",
                          running.size()));
}

}  // namespace

Result<> build_fixture(const RunDir& run, const std::vector<std::string>& builder,
                       const std::string& dir, const Deadline& deadline) {
  TRY_ASSIGN(const std::string words, run_builder(builder, deadline));
  const json document = last_document(words);
  const json* snap = find(document, "snap");
  const std::string path = snap ? get_string(*snap, "path") : "";
  if (is_of_scope(run, path) && users_of(run, path).empty()) {
    if (rename(path.c_str(), dir.c_str()) < 0)
      return fail_errno(fmt::format("cannot move {} into the cache", path), errno);
    return {};
  }
  // One that was restored, or that somebody keeps: it is not ours to take away.
  if (snap != nullptr && !find(document, "vm"))
    return fail(Code::invalid,
                fmt::format("the builder names snapshot {}, which stays where it is: let it take "
                            "one without a path, or leave a VM running",
                            path));
  TRY_ASSIGN(const Object vm, vm_of(run, document));
  TakeOptions options;
  options.stop = true;
  TRY(take(run, vm, dir, options, deadline));
  return {};
}

}  // namespace pv::snap
