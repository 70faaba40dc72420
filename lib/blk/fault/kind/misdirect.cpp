// SPDX-License-Identifier: MIT
// Kinds `misdirect_write` and `misdirect_read`: the right data at the wrong place.
#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

class Misdirect final : public Action {
 public:
  Misdirect(Op op, std::optional<uint64_t> to, uint64_t shift) : op_(op), to_(to), shift_(shift) {}

  uint32_t ops() const override { return op_bit(op_); }
  bool concerns(const Case& at) const override { return target(at) != at.request.offset; }
  json describe() const override {
    json object = {{"kind", op_ == Op::read ? "misdirect_read" : "misdirect_write"}};
    if (to_)
      object["to_bytes"] = *to_;
    else
      object["shift_bytes"] = shift_;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    const Request& request = at.request;
    const uint64_t place = target(at);
    out.answer(0);
    out.note = fmt::format(R"("target_bytes":{})", place);
    Step move = part(request, 0, request.length);
    move.offset = place;
    if (op_ == Op::read) {
      out.steps.push_back(std::move(move));
      return;
    }
    Step before = read_aside(place, request.length);
    Truth& truth = at.bench.truth();
    // Where an earlier fault has left something wrong, that is not what should be there.
    before.then = [&truth, place, length = request.length, old = before.own,
                   sector = at.bench.geometry().sector_size] {
      for (uint64_t from = 0; from < length; from += sector)
        if (const char* right = truth.at(place + from))
          std::memcpy(old.get() + from, right, sector);
    };
    move.then = [&truth, &request, rule = at.rule, place, old = before.own] {
      truth.remember(rule, place, old.get(), request.length);
      truth.remember(rule, request, 0, request.length);
    };
    out.steps.push_back(std::move(before));
    out.steps.push_back(std::move(move));
  }

 private:
  // Where it goes instead; a request that would cross the end goes to the start.
  uint64_t target(const Case& at) const {
    const uint64_t size = at.bench.geometry().size, place = to_ ? *to_ : at.request.offset + shift_;
    if (place <= size && at.request.length <= size - place) return place;
    return 0;
  }

  Op op_;
  std::optional<uint64_t> to_;
  uint64_t shift_;
};

Result<std::unique_ptr<Action>> make_misdirect(const json& object, const RuleGround& ground,
                                               Op op) {
  const Geometry& geometry = ground.geometry;
  Keys keys = keys_of(object);
  std::optional<uint64_t> to;
  if (keys.has("to_bytes")) to = keys.whole("to_bytes", 0);
  const uint64_t shift = keys.whole("shift_bytes", to ? 0 : geometry.physical_sector_size, 1);
  if (keys.good() && to && shift != 0)
    keys.refuse("do.to_bytes and shift_bytes exclude each other");
  if (keys.good() && (to.value_or(0) | shift) % geometry.sector_size != 0)
    keys.refuse("do: the target is not aligned to sectors");
  if (keys.good() && std::max(to.value_or(0), shift) >= geometry.size)
    keys.refuse("do: the target is past the end of the disk");
  TRY(keys.end());
  return std::make_unique<Misdirect>(op, to, shift);
}

}  // namespace

Result<std::unique_ptr<Action>> make_misdirect_read(const json& object, const RuleGround& ground) {
  return make_misdirect(object, ground, Op::read);
}

Result<std::unique_ptr<Action>> make_misdirect_write(const json& object, const RuleGround& ground) {
  return make_misdirect(object, ground, Op::write);
}

}  // namespace pv::blk
