// SPDX-License-Identifier: MIT
// Kinds `error` and `medium`: the request fails with an errno. As a real drive does, the part
// before the first bad sector may succeed.
#include <fmt/format.h>

#include "base/json.hpp"
#include "blk/fault/kinds.hpp"

namespace pv::blk {
namespace {

class ErrorAction : public Action {
 public:
  ErrorAction(const char* kind, int error, bool prefix, uint32_t default_ops)
      : kind_(kind), error_(error), prefix_(prefix), default_ops_(default_ops) {}

  uint32_t default_ops() const override { return default_ops_; }
  bool needs_ranges() const override { return prefix_; }
  bool after_io() const override { return true; }
  json describe() const override {
    json object = {{"kind", kind_}, {"errno", errno_name(error_)}};
    if (prefix_) object["prefix"] = true;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    out.answer(error_);
    const Request& request = at.request;
    if (!prefix_ || request.op == Op::flush || request.op == Op::map) return;
    const uint64_t bad = at.ranges.first(request.offset, request.length);
    if (bad == RangeSet::k_none) return;
    const uint64_t sector = at.bench.geometry().sector_size;
    const uint64_t good = bad / sector * sector - request.offset;
    out.note = fmt::format(R"("good_bytes":{})", good);
    if (good == 0 || request.op == Op::cache) return;
    Step step;
    step.op = request.op;
    step.offset = request.offset;
    step.length = good;
    out.steps.push_back(std::move(step));
    if (request.op == Op::read) out.wire.good = good;
  }

 private:
  const char* kind_;
  int error_;
  bool prefix_;
  uint32_t default_ops_;
};

Result<std::unique_ptr<Action>> make(const json& object, const char* kind, const char* fallback,
                                     bool prefix, uint32_t ops) {
  Keys keys(object, "do");
  static_cast<void>(keys.raw("kind"));
  const std::string name = keys.text("errno", fallback);
  prefix = keys.flag("prefix", prefix);
  TRY(keys.end());
  TRY_ASSIGN(const int error, parse_errno(name));
  return std::make_unique<ErrorAction>(kind, error, prefix, ops);
}

}  // namespace

Result<std::unique_ptr<Action>> make_error(const json& object, const RuleGround&) {
  return make(object, "error", "EIO", false, k_every_op);
}

Result<std::unique_ptr<Action>> make_medium(const json& object, const RuleGround&) {
  return make(object, "medium", "EIO", true, op_bit(Op::read));
}

}  // namespace pv::blk
