// SPDX-License-Identifier: MIT
// Kind `gone`: from its first firing on, whatever that was, every request fails until the rule is
// cleared. The connection stays; `disconnect` cuts that.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Gone final : public Action {
 public:
  explicit Gone(int error) : error_(error) {}
  bool latches() const override { return true; }
  json describe() const override { return {{"kind", "gone"}, {"errno", errno_name(error_)}}; }
  void decide(const Case&, Outcome& out) const override { out.answer(error_); }

 private:
  int error_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_gone(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const std::string name = keys.text("errno", "ENODEV");
  TRY(keys.end());
  TRY_ASSIGN(const int error, parse_errno(name));
  return std::make_unique<Gone>(error);
}

}  // namespace pv::blk
