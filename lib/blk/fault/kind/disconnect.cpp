// SPDX-License-Identifier: MIT
// Kind `disconnect`: the connection is cut at a chosen point of the protocol; the front end does
// it. Points before the first request are asked for when a client connects (greet.cpp).
#include <cerrno>

#include "blk/fault/kind/common.hpp"
#include "blk/fault/wire_kinds.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_max_bytes = 64 << 20;

bool counts_bytes(HangUp at) {
  return at == HangUp::reply || at == HangUp::greeting;
}

class Disconnect final : public Action {
 public:
  Disconnect(HangUp at, uint32_t bytes) : at_(at), bytes_(bytes) {}

  bool greets() const override { return at_ >= HangUp::greeting; }
  uint32_t ops() const override { return greets() ? 0 : k_every_op; }
  bool after_io() const override { return at_ == HangUp::before_reply || at_ == HangUp::reply; }
  const char* unsupported_on(Front front) const override {
    if (front == Front::host) return "a request of the host has no connection";
    return front == Front::vhost && greets() ? "a vhost-user client is not greeted" : nullptr;
  }
  bool concerns(const Case& at) const override { return at.request.wire != nullptr; }
  json describe() const override {
    json object = {{"kind", "disconnect"}, {"at", name_of(at_)}};
    if (counts_bytes(at_)) object["bytes"] = bytes_;
    return object;
  }

  void decide(const Case&, Outcome& out) const override {
    if (at_ == HangUp::request) out.answer(ECONNRESET);
    out.wire.kind = WireFault::hang_up;
    out.wire.how = static_cast<uint8_t>(at_);
    out.wire.bytes = bytes_;
    out.note = fmt::format(R"("at":"{}")", name_of(at_));
    if (counts_bytes(at_)) out.note += fmt::format(R"(,"bytes":{})", bytes_);
  }

 private:
  HangUp at_;
  uint32_t bytes_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_disconnect(const json& object, const RuleGround&) {
  Keys keys = keys_of(object);
  const auto at = static_cast<HangUp>(
      keys.choice("at", k_hang_up_names, static_cast<size_t>(HangUp::before_reply)));
  const bool given = keys.has("bytes");
  const auto bytes = static_cast<uint32_t>(keys.whole("bytes", 0, 0, k_max_bytes));
  if (keys.good() && given && !counts_bytes(at))
    keys.refuse(fmt::format("do.bytes goes with at reply or greeting, not {}", name_of(at)));
  TRY(keys.end());
  return std::make_unique<Disconnect>(at, bytes);
}

}  // namespace pv::blk
