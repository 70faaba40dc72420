// SPDX-License-Identifier: MIT
// One split virtqueue in the guest's memory (virtio 1.2, section 2.7): heads come out of the
// available ring, answers go into the used ring and are published together. What lies there is
// changed by the guest at any time: every index is read once, and checked.
#pragma once

#include <cstdint>
#include <optional>

#include "front/vhost/protocol.hpp"

namespace pv::vhost {

class Ring {
 public:
  // Where its parts lie; said again when the client has brought a new memory table.
  void move(Desc* desc, char* avail, char* used);
  // `size` is a power of two. Starts at the given index, and goes on in the used ring where that
  // stands.
  void start(uint16_t size, uint16_t next, bool event_idx);

  static constexpr size_t desc_bytes(size_t size) { return sizeof(Desc) * size; }
  static constexpr size_t avail_bytes(size_t size) { return sizeof(AvailHead) + 2 * size + 2; }
  static constexpr size_t used_bytes(size_t size) {
    return sizeof(UsedHead) + sizeof(UsedElem) * size + 2;
  }

  uint16_t size() const { return size_; }
  Desc desc(uint16_t index) const;
  uint16_t next_index() const { return next_; }
  void set_next(uint16_t index) { next_ = index; }
  uint16_t used_index() const { return used_index_; }

  // The next head, which may be no descriptor's; none when there is nothing new. A guest that is
  // further ahead than the ring is long has lost its mind: poisoned, until the next start.
  std::optional<uint16_t> take();
  bool is_poisoned() const { return poisoned_; }

  // The guest need not tell of new requests, we come by.
  void hush();
  // From now on it is to tell; true when something came before it could know.
  bool listen();

  // Puts an answer where the guest does not see it yet. Returns the element's place in the ring.
  uint16_t put(uint32_t id, uint32_t length);
  // Shows what was put. True when the guest wants to be told.
  bool publish();
  bool has_unpublished() const { return used_index_ != shown_; }

 private:
  uint16_t* avail_ring() const;
  UsedElem* used_ring() const;
  void set_avail_event(uint16_t index);

  Desc* desc_ = nullptr;
  AvailHead* avail_ = nullptr;
  UsedHead* used_ = nullptr;
  uint16_t size_ = 0;
  uint16_t next_ = 0;        // of the available ring
  uint16_t used_index_ = 0;  // of what was put
  uint16_t shown_ = 0;       // ... and published
  bool event_idx_ = false;
  bool told_ = false;  // since the start, so that `shown_` means something to the guest
  bool poisoned_ = false;
};

}  // namespace pv::vhost
