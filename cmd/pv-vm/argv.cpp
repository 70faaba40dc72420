// SPDX-License-Identifier: MIT
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/boot.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

// A word as a POSIX shell must be given it.
std::string shell_quoted(const std::string& word) {
  constexpr std::string_view k_plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!word.empty() && word.find_first_not_of(k_plain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace

void build_argv(cli::Verb& verb) {
  auto name = std::make_shared<std::string>();
  verb.positional("name", *name, "The VM (default: the one of the document on stdin)");
  verb.run([name](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, *name));
    TRY_ASSIGN(const json argv, vm::vm_argv(at.run, at.vm));
    if (context.text_output()) {
      std::vector<std::string> words;
      for (const json& word : argv) words.push_back(shell_quoted(word.get<std::string>()));
      TRY(context.emit_raw(join(words, " ") + "\n"));
      return 0;
    }
    TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
    context.document()["argv"] = argv;
    TRY(context.emit());
    return 0;
  });
}

}  // namespace pv::vmcmd
