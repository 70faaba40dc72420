// SPDX-License-Identifier: MIT
// Child requests: what a layer submits below itself when it has to see the completion. Pooled, so
// that a busy layer allocates nothing per request.
#pragma once

#include <memory>
#include <vector>

#include "blk/disk.hpp"

namespace pv::blk {

// A free list of T. Objects keep their buffers between uses; the pool owns all of them.
template <class T>
class Pool {
 public:
  T* take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<T>());
      return all_.back().get();
    }
    T* object = free_.back();
    free_.pop_back();
    return object;
  }
  void give(T* object) { free_.push_back(object); }
  size_t in_use() const { return all_.size() - free_.size(); }
  size_t capacity() const { return all_.size(); }

 private:
  std::vector<std::unique_ptr<T>> all_;
  std::vector<T*> free_;
};

// `child` becomes a copy of `parent` that completes into `owner` through `done`.
inline void make_child(Request& child, const Request& parent, void* owner,
                       void (*done)(Request&, int)) {
  child = parent;
  child.owner = owner;
  child.done = done;
}

}  // namespace pv::blk
