// SPDX-License-Identifier: MIT
// What a discard does, and what is said of it: zeroes for certain, anything (seeded noise, for
// those who rely on zeroes without asking), or nothing.
#include <algorithm>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/layer/own_geometry.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_discard_params[] = {
    {"behaviour", "HOW", "zeroes, unspecified or ignored (default: as the disk below)"},
    {"granularity", "SIZE", "only whole multiples of this are discarded (default: one sector)"},
    {"noise", "SEED", "unspecified: a discarded range then reads as noise from this seed"},
};
constexpr size_t k_noise_bytes = 64 << 10;

struct DiscardSettings {
  DiscardBehaviour behaviour = DiscardBehaviour::zeroes;
  uint64_t granularity = 0;
  std::optional<uint64_t> noise;
};

class Discard final : public OwnGeometry {
 public:
  Discard(std::unique_ptr<Disk> lower, const DiscardSettings& settings)
      : OwnGeometry(std::move(lower)), settings_(settings) {
    refresh();
  }

  void submit(Request& request) override {
    if (request.op != Op::discard) return lower().submit(request);
    if (settings_.behaviour == DiscardBehaviour::ignored) return request.done(request, 0);
    const bool certain = lower().geometry().discard == DiscardBehaviour::zeroes;
    if (settings_.behaviour == DiscardBehaviour::zeroes)
      return send(request, certain ? Op::discard : Op::zero, request.offset,
                  request.offset + request.length);
    // A device gives back whole granules; what sticks out at either end stays as it is.
    const uint64_t grain = settings_.granularity;
    const uint64_t begin = (request.offset + grain - 1) / grain * grain;
    const uint64_t end = (request.offset + request.length) / grain * grain;
    if (begin >= end) return request.done(request, 0);
    send(request, settings_.noise ? Op::write : Op::discard, begin, end);
  }

 private:
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Discard* discard = nullptr;
    uint64_t end = 0;
    iovec segment{};
    std::vector<char> noise;
  };

  void change(Geometry& geometry) const override {
    geometry.discard = settings_.behaviour;
    geometry.discard_granularity = static_cast<uint32_t>(settings_.granularity);
  }

  void send(Request& request, Op op, uint64_t begin, uint64_t end) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->discard = this;
    flight->end = end;
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.discard->sent(done, error);
    });
    flight->child.op = op;
    flight->child.offset = begin;
    flight->child.length = end - begin;
    flight->child.wire = nullptr;
    if (op == Op::write) next_noise(*flight);
    lower().submit(flight->child);
  }

  // The noise at an offset is the same whenever and in whatever pieces it is discarded.
  void next_noise(Flight& flight) {
    Request& child = flight.child;
    child.length = std::min<uint64_t>(k_noise_bytes, flight.end - child.offset);
    flight.noise.resize(k_noise_bytes);
    for (size_t i = 0; i < child.length; i += sizeof(uint64_t)) {
      const uint64_t word = mix(*settings_.noise, child.offset + i);
      std::memcpy(flight.noise.data() + i, &word, sizeof word);
    }
    flight.segment = {flight.noise.data(), child.length};
    child.data = &flight.segment;
    child.segments = 1;
  }

  void sent(Flight& flight, int error) {
    const uint64_t at = flight.child.offset + flight.child.length;
    if (error == 0 && flight.child.op == Op::write && at < flight.end) {
      flight.child.offset = at;
      next_noise(flight);
      return lower().submit(flight.child);
    }
    Request* parent = flight.parent;
    flights_.give(&flight);
    parent->done(*parent, error);
  }

  DiscardSettings settings_;
  Pool<Flight> flights_;
};

Result<DiscardBehaviour> parse_behaviour(const std::string& text) {
  if (text == "zeroes") return DiscardBehaviour::zeroes;
  if (text == "unspecified") return DiscardBehaviour::unspecified;
  if (text == "ignored") return DiscardBehaviour::ignored;
  return fail(Code::usage, fmt::format("layer 'discard': behaviour is '{}', not zeroes, "
                                       "unspecified or ignored",
                                       text));
}

}  // namespace

std::span<const ParamSpec> discard_params() {
  return k_discard_params;
}

Result<std::unique_ptr<Disk>> make_discard(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env&) {
  const Geometry& below = lower->geometry();
  DiscardSettings settings{below.discard, below.discard_granularity, std::nullopt};
  for (const auto& [key, value] : spec.params) {
    if (key == "behaviour") {
      TRY_ASSIGN(settings.behaviour, parse_behaviour(value));
    } else if (key == "granularity") {
      TRY_ASSIGN(settings.granularity, parse_size(value));
    } else {
      TRY_ASSIGN(settings.noise, parse_count("noise", value));
    }
  }
  const uint64_t grain = settings.granularity;
  if (grain < below.sector_size || (grain & (grain - 1)) != 0 || grain > uint64_t{1} << 30)
    return fail(Code::usage, fmt::format("layer 'discard': granularity {} is not a power of two "
                                         "from the sector size {} to 1 GiB",
                                         grain, below.sector_size));
  if (settings.noise && settings.behaviour != DiscardBehaviour::unspecified)
    return fail(Code::usage, "layer 'discard': noise belongs to behaviour=unspecified");
  return std::make_unique<Discard>(std::move(lower), settings);
}

}  // namespace pv::blk
