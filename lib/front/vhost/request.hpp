// SPDX-License-Identifier: MIT
// What a chain asks of the block device (virtio 1.2, section 5.2.6). How a chain is cut into
// descriptors means nothing (2.7.4), with one exception of ours: an id goes to one descriptor.
#pragma once

#include <vector>

#include "front/vhost/chain.hpp"

namespace pv::vhost {

enum class Verdict : uint8_t {
  run,
  io_error,     // counted as one
  unsupported,  // not counted: a guest may ask
};

struct BlkRequest {
  BlkType type = BlkType::in;
  uint64_t sector = 0;
  std::vector<iovec> data;       // without those of no length
  uint64_t length = 0;           // of the data
  uint8_t* status = nullptr;     // null: there is no place for it
  std::vector<BlkRange> ranges;  // of a discard or write zeroes, those of no length left out
};

// Checked in this order: the chain is whole, has a header and a status byte; the type is known;
// there is data where the type needs some; each data descriptor, also an empty one, points in the
// right direction; the length fits the type; everything lies in memory.
Verdict read_request(const Chain& chain, const Memory& memory, BlkRequest& request);

}  // namespace pv::vhost
