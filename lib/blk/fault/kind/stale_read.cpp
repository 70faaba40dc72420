// SPDX-License-Identifier: MIT
// Kind `stale_read`: a read returns what was there when the rule came, although it has been written
// since. The old data is kept from the first change on, sector by sector, up to a bound.
#include <unordered_map>

#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_max_kept_bytes = 256 << 20;

class StaleRead final : public Action {
 public:
  explicit StaleRead(uint32_t sector) : sector_(sector) {}

  uint32_t ops() const override { return op_bit(Op::read); }
  json describe() const override { return {{"kind", "stale_read"}}; }
  bool keeps_old() const override { return true; }

  bool wants_old(uint64_t offset, uint64_t length) const override {
    if (old_.size() * sector_ >= k_max_kept_bytes) return false;
    for (uint64_t at = offset; at < offset + length; at += sector_)
      if (old_.count(at) == 0) return true;
    return false;
  }
  void keep_old(uint64_t offset, const char* data, uint64_t length) const override {
    for (uint64_t at = 0; at < length && old_.size() * sector_ < k_max_kept_bytes; at += sector_) {
      auto& kept = old_[offset + at];
      if (kept) continue;
      kept = std::make_unique<char[]>(sector_);
      std::memcpy(kept.get(), data + at, sector_);
    }
  }

  Result<> each_kept(const Piece& piece) const override {
    for (const auto& [offset, data] : old_) TRY(piece(offset, data.get(), sector_));
    return {};
  }

  bool concerns(const Case& at) const override {
    const Request& request = at.request;
    for (uint64_t from = 0; from < request.length; from += sector_)
      if (old_.count(request.offset + from) != 0) return true;
    return false;
  }
  void decide(const Case& at, Outcome& out) const override {
    const Request& request = at.request;
    out.answer(0);
    Step read = part(request, 0, request.length);
    read.then = [this, &request] {
      for (uint64_t from = 0; from < request.length; from += sector_)
        if (const auto kept = old_.find(request.offset + from); kept != old_.end())
          scatter(request, from, kept->second.get(), sector_);
    };
    out.steps.push_back(std::move(read));
  }

 private:
  uint32_t sector_;
  mutable std::unordered_map<uint64_t, std::unique_ptr<char[]>> old_;  // by byte offset
};

}  // namespace

Result<std::unique_ptr<Action>> make_stale_read(const json& object, const RuleGround& ground) {
  TRY(keys_of(object).end());
  return std::make_unique<StaleRead>(ground.geometry.sector_size);
}

}  // namespace pv::blk
