// SPDX-License-Identifier: MIT
#include "vm/access/clock.hpp"

#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_clock_ns = 30 * k_ns_per_s;

struct Words {
  std::string name, action, value;
};

// [VM] get | [VM] set T | [VM] advance SECONDS
Result<Words> read_words(const std::vector<std::string>& words) {
  Words read;
  const auto take = [&](size_t at) {
    if (at >= words.size() || at > 1) return false;
    const bool bare = words[at] == "get";
    if (!bare && words[at] != "set" && words[at] != "advance") return false;
    if (words.size() != at + (bare ? 1 : 2)) return false;
    read = {at == 1 ? words[0] : "", words[at], bare ? "" : words[at + 1]};
    return true;
  };
  if (take(0) || take(1)) return read;
  return fail(Code::usage, "clock: say [VM] get, [VM] set T or [VM] advance SECONDS");
}

Result<int> act(cli::Context& context, const std::vector<std::string>& given) {
  TRY_ASSIGN(const Words words, read_words(given));
  int64_t ns = 0;
  if (words.action != "get") {
    TRY_ASSIGN(ns, vm::parse_seconds(words.value, "clock " + words.action));
  }
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_clock_ns));
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, words.name));
  TRY_ASSIGN(const json state, at.vm.load());
  TRY(vm::require_state(at.vm, state, "clock", {"booted"}));
  auto clock = words.action == "get"   ? vm::read_clock(at.vm, deadline)
               : words.action == "set" ? vm::set_clock(at.vm, ns, deadline)
                                       : vm::advance_clock(at.vm, ns, deadline);
  if (!clock) return fail(clock.error());
  TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  context.document()["clock"] = std::move(*clock);
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_clock(cli::Verb& verb) {
  auto words = std::make_shared<std::vector<std::string>>();
  verb.rest("words", *words,
            "[VM] get, set T (seconds since 1970) or advance SECONDS (also negative)");
  verb.run([words](cli::Context& context) { return act(context, *words); });
}

}  // namespace pv::vmcmd
