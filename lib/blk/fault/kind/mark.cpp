// SPDX-License-Identifier: MIT
// Kind `mark`: the request passes untouched, and a mark is set that other rules may wait for. With
// match.content that is how a guest says "now".
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Mark final : public Action {
 public:
  explicit Mark(std::string name) : name_(std::move(name)) {}
  Stage stage() const override { return Stage::mark; }
  json describe() const override { return {{"kind", "mark"}, {"name", name_}}; }
  void note_mark(const Case& at) const override { at.bench.mark(name_); }

 private:
  std::string name_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_mark(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const std::string name = keys.name("name");
  if (keys.good() && name.empty()) keys.refuse("do needs name, the mark that it sets");
  TRY(keys.end());
  return std::make_unique<Mark>(name);
}

}  // namespace pv::blk
