// SPDX-License-Identifier: MIT
// Kind `violate`: the request is carried out, and its answer breaks the protocol; the front end
// does it. What takes structured replies becomes `magic` for a client that has not asked for them.
#include "blk/fault/kind/common.hpp"
#include "blk/fault/wire_kinds.hpp"

namespace pv::blk {
namespace {

constexpr uint32_t k_garbage_bytes = 16, k_max_garbage = 1 << 20;

class Violate final : public Action {
 public:
  Violate(Violation what, uint32_t bytes) : what_(what), bytes_(bytes) {}

  uint32_t ops() const override {
    const bool data = what_ == Violation::chunk_length || what_ == Violation::missing_data;
    return data ? op_bit(Op::read) : k_every_op;
  }
  bool after_io() const override { return true; }
  const char* unsupported_on(Front front) const override {
    if (front == Front::host) return "a request of the host has no protocol";
    const bool in_rings =
        what_ == Violation::cookie || what_ == Violation::error_code || what_ == Violation::twice;
    return front == Front::nbd || in_rings ? nullptr : "an answer in a ring has no such part";
  }
  bool concerns(const Case& at) const override {
    return at.request.wire != nullptr && unsupported_on(at.request.front) == nullptr;
  }
  json describe() const override {
    json object = {{"kind", "violate"}, {"what", name_of(what_)}};
    if (what_ == Violation::garbage) object["bytes"] = bytes_;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    const bool chunks = what_ >= Violation::chunk_type && what_ <= Violation::missing_data;
    const bool possible = !chunks || at.request.wire->structured;
    const Violation what = possible ? what_ : Violation::magic;
    out.wire.kind = WireFault::violate;
    out.wire.how = static_cast<uint8_t>(what);
    out.wire.bytes = bytes_;
    out.wire.chance = at.chance.bits();
    out.note = fmt::format(R"("what":"{}")", name_of(what));
    if (!possible) out.note += fmt::format(R"(,"instead_of":"{}")", name_of(what_));
  }

 private:
  Violation what_;
  uint32_t bytes_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_violate(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const auto what = static_cast<Violation>(keys.choice("what", k_violation_names, 0));
  const bool given = keys.has("bytes");
  const auto bytes = static_cast<uint32_t>(keys.whole("bytes", k_garbage_bytes, 1, k_max_garbage));
  if (keys.good() && given && what != Violation::garbage)
    keys.refuse(fmt::format("do.bytes goes with garbage, not {}", name_of(what)));
  TRY(keys.end());
  return std::make_unique<Violate>(what, bytes);
}

}  // namespace pv::blk
