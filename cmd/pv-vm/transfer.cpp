// SPDX-License-Identifier: MIT
// `put` and `get`: files into the guest and out of it.
#include <cstdlib>

#include <fmt/format.h>

#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/access/files.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_transfer_ns = 24 * 3600 * k_ns_per_s;
constexpr unsigned long k_mode_bits = 07777;

struct TransferOptions {
  std::vector<std::string> words;
  std::string mode;
  bool no_check = false;
};

Result<> read_options(cli::Context& context, const TransferOptions& options,
                      vm::Transfer& transfer) {
  const std::string& guest_path = transfer.guest_path;
  transfer.check = !options.no_check;
  if (guest_path.empty() || guest_path[0] != '/' || guest_path.back() == '/')
    return fail(Code::usage, fmt::format("'{}' is not the absolute path of a file in the guest",
                                         printable(guest_path)));
  if (transfer.host_path.empty()) return fail(Code::usage, "the path on the host is empty");
  if (!options.mode.empty()) {
    char* end = nullptr;
    const unsigned long mode = std::strtoul(options.mode.c_str(), &end, 8);
    if (*end != '\0' || mode > k_mode_bits || options.mode[0] < '0' || options.mode[0] > '7')
      return fail(Code::usage, fmt::format("--mode: '{}' is not an octal mode such as 0644",
                                           printable(options.mode)));
    transfer.mode = static_cast<unsigned>(mode);
  }
  TRY_ASSIGN(transfer.timeout_ns, context.timeout_ns(k_transfer_ns));
  return {};
}

// [NAME] FROM TO
Result<std::string> take_name(const char* verb, std::vector<std::string>& words) {
  if (words.size() < 2 || words.size() > 3)
    return fail(Code::usage,
                fmt::format("{}: give [VM] and two paths, the source and the destination", verb));
  std::string name;
  if (words.size() == 3) {
    name = words[0];
    words.erase(words.begin());
  }
  return name;
}

Result<int> act(cli::Context& context, const TransferOptions& options, bool is_put) {
  std::vector<std::string> words = options.words;
  TRY_ASSIGN(const std::string name, take_name(is_put ? "put" : "get", words));
  vm::Transfer transfer;
  transfer.host_path = words[is_put ? 0 : 1];
  transfer.guest_path = words[is_put ? 1 : 0];
  TRY(read_options(context, options, transfer));
  const bool standard = transfer.host_path == "-";
  if (standard && is_put && name.empty() && !context.input_from_file())
    return fail(Code::usage, "put of '-' needs a VM name or --in: stdin held the document");
  if (standard && !is_put) context.raw_output();
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, name));
  TRY_ASSIGN(const json state, at.vm.load());
  TRY(vm::require_state(at.vm, state, is_put ? "put" : "get", {"booted"}));
  auto done = is_put ? vm::put_file(at.vm, transfer)
                     : vm::get_file(at.vm, transfer, [&](std::string_view bytes) {
                         return context.emit_raw(bytes);
                       });
  if (!done) return fail(done.error());
  if (standard && !is_put) return 0;
  TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  context.document()["transfer"] = std::move(*done);
  TRY(context.emit());
  return 0;
}

void build(cli::Verb& verb, bool is_put) {
  auto options = std::make_shared<TransferOptions>();
  verb.rest("words", options->words,
            is_put ? "[VM] SRC DEST: a file here, or - for stdin, and an absolute path there"
                   : "[VM] SRC DEST: an absolute path there, and a file here, or - for stdout");
  verb.option("--mode", options->mode, "MODE",
              "Mode of the new file, octal (default: the source's, 0644 for stdin)");
  verb.flag("--no-check", options->no_check, "Compare the size only, do not read twice");
  verb.run([options, is_put](cli::Context& context) { return act(context, *options, is_put); });
}

}  // namespace

void build_put(cli::Verb& verb) {
  build(verb, true);
}

void build_get(cli::Verb& verb) {
  build(verb, false);
}

}  // namespace pv::vmcmd
