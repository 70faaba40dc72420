// SPDX-License-Identifier: MIT
// Refuses every change, whatever the disk below allows.
#include <cerrno>

#include "blk/layer/layers.hpp"
#include "blk/layer/own_geometry.hpp"

namespace pv::blk {
namespace {

class ReadOnly final : public OwnGeometry {
 public:
  explicit ReadOnly(std::unique_ptr<Disk> lower) : OwnGeometry(std::move(lower)) { refresh(); }

  void submit(Request& request) override {
    if (changes_data(request.op)) return request.done(request, EROFS);
    lower().submit(request);
  }
  Result<> resize(uint64_t) override {
    return fail(Code::unsupported, "a read-only disk keeps its size");
  }

 private:
  void change(Geometry& geometry) const override { geometry.read_only = true; }
};

}  // namespace

std::span<const ParamSpec> readonly_params() {
  return {};
}

Result<std::unique_ptr<Disk>> make_readonly(std::unique_ptr<Disk> lower, const LayerSpec&,
                                            const Env&) {
  return std::make_unique<ReadOnly>(std::move(lower));
}

}  // namespace pv::blk
