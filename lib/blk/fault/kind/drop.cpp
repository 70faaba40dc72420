// SPDX-License-Identifier: MIT
// Kinds `drop_write`, `drop_flush`, `drop_fua`: what the disk says it has done, and has not.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class DropAction final : public Action {
 public:
  DropAction(const char* kind, uint32_t ops) : kind_(kind), ops_(ops) {}
  uint32_t ops() const override { return ops_; }
  json describe() const override { return {{"kind", kind_}}; }

  void decide(const Case& at, Outcome& out) const override {
    out.answer(0);
    // A discard promises zeroes on some disks, on others nothing that could be put right.
    if (at.request.op != Op::discard && at.request.op != Op::flush)
      at.bench.truth().remember(at.rule, at.request, 0, at.request.length);
    if (at.request.op == Op::discard && at.bench.geometry().discard == DiscardBehaviour::zeroes)
      at.bench.truth().remember(at.rule, at.request, 0, at.request.length);
  }

 private:
  const char* kind_;
  uint32_t ops_;
};

class DropFua final : public Action {
 public:
  uint32_t ops() const override { return k_changes; }
  json describe() const override { return {{"kind", "drop_fua"}}; }
  bool concerns(const Case& at) const override { return (at.request.flags & k_fua) != 0; }
  void decide(const Case&, Outcome& out) const override { out.drop_flags = k_fua; }
};

}  // namespace

Result<std::unique_ptr<Action>> make_drop_write(const json& object, const RuleGround&) {
  TRY(keys_of(object).end());
  return std::make_unique<DropAction>("drop_write", k_changes);
}

Result<std::unique_ptr<Action>> make_drop_flush(const json& object, const RuleGround&) {
  TRY(keys_of(object).end());
  return std::make_unique<DropAction>("drop_flush", op_bit(Op::flush));
}

Result<std::unique_ptr<Action>> make_drop_fua(const json& object, const RuleGround&) {
  TRY(keys_of(object).end());
  return std::make_unique<DropFua>();
}

}  // namespace pv::blk
