// SPDX-License-Identifier: MIT
#include "serve/fault_wait.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_pause_ns = k_ns_per_ms;  // a hundred thousand faults a second are told in lots

}  // namespace

FaultWaits::~FaultWaits() {
  loop_.cancel(timer_);
}

void FaultWaits::wait(ControlServer::ConnectionId who, const json& request,
                      ControlServer::Reply reply) {
  Waiting one{who,
              get_string(request, "id"),
              get_u64(request, "hits", 1),
              get_u64(request, "since"),
              get_string(request, "journal") == "verify",
              std::move(reply)};
  if (!answer(one)) waiting_.push_back(std::move(one));
}

void FaultWaits::abandon(ControlServer::ConnectionId who) {
  const auto same = [&](const Waiting& one) { return one.who == who; };
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), same), waiting_.end());
}

// Not from within the request that has met the fault, and not more often than anybody can read.
void FaultWaits::look_soon() {
  if (timer_ != 0) return;
  const uint64_t due = looked_ns_ + k_pause_ns, now = system_clock().now_ns();
  timer_ = loop_.after(due > now ? due - now : 0, [this] {
    timer_ = 0;
    look();
  });
}

void FaultWaits::look() {
  looked_ns_ = system_clock().now_ns();
  std::vector<Waiting> still;
  for (Waiting& one : waiting_)
    if (!answer(one)) still.push_back(std::move(one));
  waiting_ = std::move(still);
}

// The disk is closed in order: who follows the journal has seen it all.
void FaultWaits::end() {
  for (const Waiting& one : std::exchange(waiting_, {}))
    one.reply(one.id.empty() ? Result<json>(json{{"ended", true}})
                             : fail(Code::detached, "the disk is closed"));
}

bool FaultWaits::answer(const Waiting& one) {
  const char* journal = one.findings ? "verify.journal" : "fault.journal";
  auto said = disk_.control({{"op", one.id.empty() ? journal : "fault.list"}});
  if (!said) {
    one.reply(fail(said.error()));
    return true;
  }
  if (one.id.empty()) {
    if (get_u64(*said, "last") <= one.since) return false;
    one.reply(std::move(*said));
    return true;
  }
  for (const json& rule : (*said)["rules"]) {
    if (get_string(rule, "id") != one.id) continue;
    const uint64_t fired = get_u64(rule, "fired");
    const json* left = find(rule, "left");
    const bool spent = left->is_number() && left->get<uint64_t>() + fired < one.hits;
    if (fired < one.hits && !spent) return false;
    if (spent) {
      one.reply(
          fail(Code::invalid, fmt::format("rule '{}' has fired {} times and never will {} times",
                                          one.id, fired, one.hits)));
      return true;
    }
    one.reply(json{{"rule", rule}});
    return true;
  }
  one.reply(fail(Code::no_such_rule, fmt::format("no rule '{}' on this disk", one.id)));
  return true;
}

}  // namespace pv::serve
