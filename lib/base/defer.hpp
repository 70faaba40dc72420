// SPDX-License-Identifier: MIT
// DEFER(statement) runs when the scope ends, whichever way it ends.
#pragma once

#include <utility>

namespace pv {

template <class F>
class Deferred {
 public:
  explicit Deferred(F&& f) : f_(std::move(f)) {}
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  ~Deferred() {
    if (armed_) f_();
  }
  void cancel() { armed_ = false; }

 private:
  F f_;
  bool armed_ = true;
};

}  // namespace pv

#define PV_DEFER2(line, ...) ::pv::Deferred pv_deferred_##line([&] { __VA_ARGS__; })
#define PV_DEFER1(line, ...) PV_DEFER2(line, __VA_ARGS__)
#define DEFER(...) PV_DEFER1(__LINE__, __VA_ARGS__)
