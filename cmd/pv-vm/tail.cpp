// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <fmt/format.h>

#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/access/stream.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_tail_ns = 365 * 24 * 3600 * k_ns_per_s;
constexpr size_t k_max_complaint = 4096;

struct TailOptions {
  std::vector<std::string> words;
  std::string lines = "10";
  bool follow = false;
};

Result<int> act(cli::Context& context, const TailOptions& options) {
  context.raw_output();
  if (options.words.empty() || options.words.size() > 2)
    return fail(Code::usage, "tail: give [VM] and a file of the guest");
  const std::string name = options.words.size() == 2 ? options.words[0] : "";
  const std::string& file = options.words.back();
  if (file.empty() || file[0] != '/')
    return fail(Code::usage, fmt::format("'{}' is not the absolute path of a file in the guest",
                                         printable(file)));
  if (options.lines.empty() || options.lines.size() > 9 ||
      options.lines.find_first_not_of("0123456789") != std::string::npos)
    return fail(Code::usage,
                fmt::format("--lines: '{}' is not a number", printable(options.lines)));
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, name));
  TRY_ASSIGN(const json state, at.vm.load());
  TRY(vm::require_state(at.vm, state, "tail", {"booted"}));
  vm::StreamCommand command;
  command.kind = "tail";
  command.argv = {"tail", "-n", options.lines};
  if (options.follow) command.argv.emplace_back("-f");
  command.argv.push_back(file);
  command.output = STDOUT_FILENO;
  TRY_ASSIGN(command.timeout_ns, context.timeout_ns(k_tail_ns));
  std::string complaint;
  TRY_ASSIGN(
      const json run,
      vm::stream_in_guest(at.vm, command, [&](vm::Stream from, std::string_view bytes) -> Result<> {
        if (from == vm::Stream::out) return context.emit_raw(bytes);
        complaint.append(bytes.substr(0, k_max_complaint - complaint.size()));
        return {};
      }));
  if (get_u64(run, "exit_status") == 0) return 0;
  // tail(1) says "tail: FILE: why", with quotes around the name or without.
  const std::string line = complaint.substr(0, complaint.find('\n'));
  const size_t colon = line.rfind(": ");
  return fail(Code::io,
              fmt::format("'{}' in the guest: {}", printable(file),
                          printable(colon == std::string::npos ? line : line.substr(colon + 2))));
}

}  // namespace

void build_tail(cli::Verb& verb) {
  auto options = std::make_shared<TailOptions>();
  verb.rest("words", options->words, "[VM] FILE: an absolute path in the guest");
  verb.option("--lines", options->lines, "N", "Begin with the last N lines (default: 10)");
  verb.flag("--follow", options->follow, "Go on with what is appended, until interrupted");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
