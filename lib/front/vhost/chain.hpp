// SPDX-License-Identifier: MIT
// The descriptors of one request, read once out of the guest's memory: what the guest makes of them
// meanwhile changes nothing.
#pragma once

#include <vector>

#include "front/vhost/memory.hpp"
#include "front/vhost/ring.hpp"

namespace pv::vhost {

struct Segment {
  uint64_t guest;
  uint32_t length;
  bool writable;  // by us
};

struct Chain {
  std::vector<Segment> segments;
  bool broken = false;  // a loop, a descriptor that is none, a wrong table
};

// Fills `chain` with what begins at `head`. As many descriptors as the ring has, or an indirect
// table of at most k_max_indirect; what comes after the first mistake is not looked at.
constexpr size_t k_max_indirect = 1024;
void read_chain(const Ring& ring, const Memory& memory, uint16_t head, bool indirect, Chain& chain);

}  // namespace pv::vhost
