// SPDX-License-Identifier: MIT
// Kind `short`: a transfer that ends early and does not say so. The rest of a read is zeroes, the
// rest of a write is not on the medium.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Short final : public Action {
 public:
  explicit Short(std::optional<uint64_t> bytes) : bytes_(bytes) {}

  uint32_t ops() const override { return op_bit(Op::read) | op_bit(Op::write); }
  bool concerns(const Case& at) const override { return moved(at) < at.request.length; }
  json describe() const override {
    json object = {{"kind", "short"}};
    if (bytes_) object["bytes"] = *bytes_;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    const Request& request = at.request;
    const uint64_t bytes = moved(at), rest = request.length - bytes;
    out.answer(0);
    out.note = fmt::format(R"("moved_bytes":{})", bytes);
    if (bytes != 0) out.steps.push_back(part(request, 0, bytes));
    if (request.op == Op::write)
      at.bench.truth().remember(at.rule, request, bytes, rest);
    else
      each_segment(request, bytes, rest, [](char* data, size_t n) { std::memset(data, 0, n); });
  }

 private:
  // Half of it, unless it is said; in whole sectors.
  uint64_t moved(const Case& at) const {
    const uint64_t sector = at.bench.geometry().sector_size;
    return bytes_ ? *bytes_ : at.request.length / 2 / sector * sector;
  }

  std::optional<uint64_t> bytes_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_short(const json& object, const RuleGround& ground) {
  const uint64_t sector = ground.geometry.sector_size;
  Keys keys = keys_of(object);
  std::optional<uint64_t> bytes;
  if (keys.has("bytes")) bytes = keys.whole("bytes", 0, 0, 32 << 20);
  if (keys.good() && bytes.value_or(0) % sector != 0)
    keys.refuse(fmt::format("do.bytes is not a multiple of the sector size {}", sector));
  TRY(keys.end());
  return std::make_unique<Short>(bytes);
}

}  // namespace pv::blk
