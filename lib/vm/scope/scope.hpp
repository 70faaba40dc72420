// SPDX-License-Identifier: MIT
// Scopes as a whole: what is in one and below it, what of that nobody owns any more, and the
// teardown that ends all of it. Names and lookup are those of base/run_dir.hpp. Single-threaded.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// The scope that a command's NAME means: below the current one, unless that is "default", which is
// where those are who named none. Code::usage for what is not a path of names.
Result<std::string> scope_path(const RunDir& run, std::string_view name);

// Whether a scope is `top` or below it; everything is below "".
bool is_within(std::string_view scope, std::string_view top);

// The objects of a kind in a scope and below it.
std::vector<Object> objects_within(const RunDir& run, std::string_view kind, std::string_view top);

// The kinds of objects that a scope holds, in the order of its teardown.
std::vector<const char*> kinds_in_scope();

// Closes what nobody owns in the current scope (a VM or disk whose process has gone, a disk whose
// VM has gone, a scope whose command was killed) and what has no name any more; how many there
// were.
Result<size_t> close_orphans(const RunDir& run, const Deadline& deadline);

// Which processes a teardown ends first.
enum class Ends { commands, everything };

// Ends what was started in the scope and below, in the order streams, VMs, disks, lans, files.
// Goes on past what fails; the document's `scope` says what was closed, and `error` is the first
// thing that could not be. Idempotent; several may do it at once.
struct Teardown {
  json document;
  std::optional<Error> error;
};
Teardown tear_down(const RunDir& run, const std::string& top, Ends ends, const Deadline& deadline);

// One `scope` object for each scope that has something in it, at `top` or below; its `orphans` are
// what close_orphans() would close. With top "" one more for what has no name.
std::vector<json> scope_documents(const RunDir& run, const std::string& top);

// Ends the processes whose environment names `top` or a scope below it, other than the servers of
// objects, ourselves and those that started us; how many there were. Ends::commands: only ours.
size_t end_streams(const RunDir& run, const std::string& top, Ends ends);

// Runs a command in the fresh scope `path` and tears it down afterwards, also when we are told to
// end or are killed (a guardian process sees to that). What a shell would say of the command's end;
// Code::duplicate_name when the scope is in use.
Result<int> run_in_scope(const std::string& path, const std::vector<std::string>& argv,
                         uint64_t teardown_ns);

}  // namespace pv::vm
