// SPDX-License-Identifier: MIT
// Base of layers that show another geometry than the disk below: the copy is made anew when that
// changes. Owned and used like any layer.
#pragma once

#include "blk/disk.hpp"

namespace pv::blk {

class OwnGeometry : public Forward {
 public:
  using Forward::Forward;
  const Geometry& geometry() const override { return geometry_; }
  Result<> resize(uint64_t size) override {
    TRY(Forward::resize(size));
    refresh();
    return {};
  }

 protected:
  // What is different here. Called with a copy of the lower disk's geometry.
  virtual void change(Geometry& geometry) const = 0;
  // To be called once by the constructor of the layer.
  void refresh() {
    geometry_ = lower().geometry();
    change(geometry_);
  }

 private:
  Geometry geometry_;
};

}  // namespace pv::blk
