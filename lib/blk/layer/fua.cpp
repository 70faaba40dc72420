// SPDX-License-Identifier: MIT
// What FUA means: ignored, and declared as that, so that clients flush instead; or honoured over a
// disk that does not know it, by a flush of our own before the answer.
#include <fmt/format.h>

#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/layer/own_geometry.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_fua_params[] = {
    {"mode", "MODE", "ignored (clients must flush) or honoured (by write and flush)"},
};

class Fua final : public OwnGeometry {
 public:
  Fua(std::unique_ptr<Disk> lower, bool honoured)
      : OwnGeometry(std::move(lower)), honoured_(honoured) {
    refresh();
  }

  void submit(Request& request) override {
    if ((request.flags & k_fua) == 0) return lower().submit(request);
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->fua = this;
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.fua->written(done, error);
    });
    flight->child.flags &= ~static_cast<uint32_t>(k_fua);
    lower().submit(flight->child);
  }

 private:
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Fua* fua = nullptr;
  };

  void change(Geometry& geometry) const override { geometry.fua = honoured_; }

  void written(Flight& flight, int error) {
    const bool flushed = flight.child.op == Op::flush;
    if (error != 0 || !honoured_ || flushed) {
      Request* parent = flight.parent;
      flights_.give(&flight);
      return parent->done(*parent, error);
    }
    flight.child.op = Op::flush;
    flight.child.offset = flight.child.length = 0;
    flight.child.data = nullptr;
    flight.child.segments = 0;
    lower().submit(flight.child);
  }

  bool honoured_;
  Pool<Flight> flights_;
};

}  // namespace

std::span<const ParamSpec> fua_params() {
  return k_fua_params;
}

Result<std::unique_ptr<Disk>> make_fua(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                       const Env&) {
  const auto mode = spec.params.find("mode");
  const std::string text = mode == spec.params.end() ? "" : mode->second;
  if (text != "ignored" && text != "honoured")
    return fail(Code::usage,
                fmt::format("layer 'fua': mode is '{}', not ignored or honoured", text));
  return std::make_unique<Fua>(std::move(lower), text == "honoured");
}

}  // namespace pv::blk
