// SPDX-License-Identifier: MIT
#include "blk/mirror/range_lock.hpp"

namespace pv::blk {

void RangeLock::List::add(Place& place) {
  place.next = nullptr;
  place.before = last;
  (last != nullptr ? last->next : first) = &place;
  last = &place;
  ++count;
  alone += place.alone ? 1 : 0;
}

void RangeLock::List::take(Place& place) {
  (place.before != nullptr ? place.before->next : first) = place.next;
  (place.next != nullptr ? place.next->before : last) = place.before;
  --count;
  alone -= place.alone ? 1 : 0;
}

// Looks at the places before `until`, or at all of them.
bool RangeLock::collides(const List& list, const Place& place, const Place* until) {
  if (list.alone == 0 && !place.alone) return false;
  for (const Place* other = list.first; other != until; other = other->next)
    if (collide(*other, place)) return true;
  return false;
}

// Who came earlier and waits goes first, so that nobody waits for ever.
void RangeLock::enter(Place& place) {
  if (collides(inside_, place, nullptr) || collides(waiting_, place, nullptr)) {
    ++waited_;
    return waiting_.add(place);
  }
  inside_.add(place);
  place.go(place);
}

bool RangeLock::let_one_go() {
  for (Place* place = waiting_.first; place != nullptr; place = place->next) {
    if (collides(inside_, *place, nullptr) || collides(waiting_, *place, place)) continue;
    waiting_.take(*place);
    inside_.add(*place);
    place->go(*place);
    return true;
  }
  return false;
}

// A request that is let go may be done at once and leave in turn: that is a round of the loop below
// and no deeper call, however many wait.
void RangeLock::leave(Place& place) {
  inside_.take(place);
  if (letting_go_ || waiting_.count == 0) return;
  letting_go_ = true;
  while (let_one_go()) {
  }
  letting_go_ = false;
}

}  // namespace pv::blk
