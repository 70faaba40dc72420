// SPDX-License-Identifier: MIT
// Kind `fail_written`: the change is carried out and reported as failed.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class FailWritten final : public Action {
 public:
  explicit FailWritten(int error) : error_(error) {}
  uint32_t ops() const override { return k_changes | op_bit(Op::flush); }
  json describe() const override {
    return {{"kind", "fail_written"}, {"errno", errno_name(error_)}};
  }
  void decide(const Case&, Outcome& out) const override { out.status = error_; }
  bool after_io() const override { return true; }

 private:
  int error_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_fail_written(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const std::string name = keys.text("errno", "EIO");
  TRY(keys.end());
  TRY_ASSIGN(const int error, parse_errno(name));
  return std::make_unique<FailWritten>(error);
}

}  // namespace pv::blk
