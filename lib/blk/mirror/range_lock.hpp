// SPDX-License-Identifier: MIT
// Lets requests pass that do not touch the same bytes, and keeps the others in the order in which
// they came: readers go together, whoever changes something goes alone. So both legs of a mirror
// see overlapping changes in the same order, and no comparison races a write. Without that, two
// writes in flight could end up in one order here and in the other there, and the legs would differ
// for good with nothing being wrong.
//
// Owned by one layer, on its thread. Places are the caller's, intrusive: nothing is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pv::blk {

class RangeLock {
 public:
  struct Place {
    uint64_t begin = 0, end = 0;
    bool alone = false;
    void (*go)(Place& place) = nullptr;  // called once it may pass, possibly in enter()
    void* owner = nullptr;

   private:
    friend class RangeLock;
    Place* next = nullptr;
    Place* before = nullptr;
  };

  void enter(Place& place);
  // `place` has passed and is done; lets go whoever waited for it.
  void leave(Place& place);

  size_t waiting() const { return waiting_.count; }
  size_t passed() const { return inside_.count; }
  uint64_t waited() const { return waited_; }  // how many ever had to

 private:
  struct List {
    Place* first = nullptr;
    Place* last = nullptr;
    size_t count = 0, alone = 0;
    void add(Place& place);
    void take(Place& place);
  };
  static bool collide(const Place& a, const Place& b) {
    return (a.alone || b.alone) && a.begin < b.end && b.begin < a.end;
  }
  static bool collides(const List& list, const Place& place, const Place* until);
  bool let_one_go();

  List inside_, waiting_;
  uint64_t waited_ = 0;
  bool letting_go_ = false;
};

}  // namespace pv::blk
