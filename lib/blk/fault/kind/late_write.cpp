// SPDX-License-Identifier: MIT
// Kinds `late_write` and `duplicate_write`: a write that lands after it was answered, over whatever
// is there by then; the second one has been carried out in time as well. At an orderly end of the
// server it lands at once, at a power cut never.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class LateWrite final : public Action {
 public:
  LateWrite(uint64_t after_ns, bool twice) : after_ns_(after_ns), twice_(twice) {}

  uint32_t ops() const override { return op_bit(Op::write); }
  json describe() const override {
    return {{"kind", twice_ ? "duplicate_write" : "late_write"}, {"after_ms", ns_to_ms(after_ns_)}};
  }
  void decide(const Case& at, Outcome& out) const override {
    at.bench.write_later(after_ns_, at.rule, at.request);
    if (twice_) return;
    out.answer(0);
    at.bench.truth().remember(at.rule, at.request, 0, at.request.length);
  }

 private:
  uint64_t after_ns_;
  bool twice_;
};

Result<std::unique_ptr<Action>> make(const json& object, bool twice) {
  constexpr uint64_t k_default_ns = 100 * k_ns_per_ms;
  Keys keys = keys_of(object);
  const uint64_t after = keys.ms("after_ms", k_default_ns);
  TRY(keys.end());
  return std::make_unique<LateWrite>(after, twice);
}

}  // namespace

Result<std::unique_ptr<Action>> make_late_write(const json& object, const RuleGround&) {
  return make(object, false);
}

Result<std::unique_ptr<Action>> make_duplicate_write(const json& object, const RuleGround&) {
  return make(object, true);
}

}  // namespace pv::blk
