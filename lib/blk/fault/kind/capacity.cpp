// SPDX-License-Identifier: MIT
// Kind `capacity`: the disk has become smaller and has told nobody. (pv-disk resize tells.)
#include <cerrno>

#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Capacity final : public Action {
 public:
  explicit Capacity(uint64_t size) : size_(size) {}
  uint32_t ops() const override { return k_every_op & ~op_bit(Op::flush); }
  bool concerns(const Case& at) const override {
    return at.request.offset + at.request.length > size_;
  }
  json describe() const override { return {{"kind", "capacity"}, {"size_bytes", size_}}; }
  void decide(const Case&, Outcome& out) const override { out.answer(ERANGE); }

 private:
  uint64_t size_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_capacity(const json& object, const RuleGround& ground) {
  Keys keys = keys_of(object);
  if (!keys.has("size_bytes")) keys.refuse("do needs size_bytes, the new size");
  const uint64_t size = keys.whole("size_bytes", 0);
  TRY(keys.end());
  if (size >= ground.geometry.size)
    return fail(Code::unsupported,
                fmt::format("the disk has {} bytes: a client learns of a larger one only from "
                            "`pv-disk resize`",
                            ground.geometry.size));
  return std::make_unique<Capacity>(size);
}

}  // namespace pv::blk
