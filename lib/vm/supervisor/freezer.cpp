// SPDX-License-Identifier: MIT
#include "vm/supervisor/freezer.hpp"

#include "base/json.hpp"
#include "base/units.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_thaw_ns = 60 * k_ns_per_s;  // where nobody waits for it

}  // namespace

void Freezer::freeze(Owner owner, uint64_t timeout_ns, const JsonReply& reply) {
  if (owner_) return reply(fail(Code::in_use, "another command has frozen the guest"));
  owner_ = owner;
  agent_.call("guest-fsfreeze-freeze", json(), timeout_ns,
              [this, owner, reply](const Result<json>& frozen) {
                if (frozen) return reply(json::object());
                ended(owner);  // an agent that was too slow may do it yet
                reply(fail(frozen.error()));
              });
}

void Freezer::thaw(uint64_t timeout_ns, const JsonReply& reply) {
  owner_.reset();
  agent_.call("guest-fsfreeze-thaw", json(), timeout_ns, [reply](const Result<json>& thawed) {
    if (!thawed) return reply(fail(thawed.error()));
    reply(json::object());
  });
}

void Freezer::ended(Owner owner) {
  if (owner_ == owner) thaw(k_thaw_ns, [](const Result<json>&) {});
}

}  // namespace pv::vm
