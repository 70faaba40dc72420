// SPDX-License-Identifier: MIT
// Kind `read_only`: changes are refused, everywhere or in the rule's ranges.
#include <cerrno>

#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class ReadOnly final : public Action {
 public:
  uint32_t ops() const override { return k_changes; }
  json describe() const override { return {{"kind", "read_only"}}; }
  void decide(const Case&, Outcome& out) const override { out.answer(EROFS); }
};

}  // namespace

Result<std::unique_ptr<Action>> make_read_only(const json& object, const RuleGround&) {
  TRY(keys_of(object).end());
  return std::make_unique<ReadOnly>();
}

}  // namespace pv::blk
