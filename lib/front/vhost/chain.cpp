// SPDX-License-Identifier: MIT
#include "front/vhost/chain.hpp"

#include <cstring>

namespace pv::vhost {
namespace {

void add(Chain& chain, const Desc& desc) {
  chain.segments.push_back({desc.addr, desc.len, (desc.flags & k_desc_write) != 0});
}

// Section 2.7.5.3: a table of descriptors that name each other; none of them is indirect.
bool read_table(const Memory& memory, const Desc& table, Chain& chain) {
  const size_t count = table.len / sizeof(Desc);
  if (table.len % sizeof(Desc) != 0 || count == 0 || count > k_max_indirect) return false;
  thread_local std::vector<iovec> pieces;
  thread_local std::vector<Desc> copy;
  pieces.clear();
  if (!memory.find(table.addr, table.len, pieces)) return false;
  copy.resize(count);
  char* to = reinterpret_cast<char*>(copy.data());
  for (const iovec& piece : pieces) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
  size_t at = 0;
  for (size_t seen = 0; seen < count; ++seen) {
    const Desc& desc = copy[at];
    if ((desc.flags & k_desc_indirect) != 0) return false;
    add(chain, desc);
    if ((desc.flags & k_desc_next) == 0) return true;
    at = desc.next;
    if (at >= count) return false;
  }
  return false;
}

bool read_all(const Ring& ring, const Memory& memory, uint16_t head, bool indirect, Chain& chain) {
  uint16_t at = head;
  for (size_t seen = 0; seen < ring.size(); ++seen) {
    if (at >= ring.size()) return false;
    const Desc desc = ring.desc(at);
    if ((desc.flags & k_desc_indirect) != 0)
      return indirect && (desc.flags & k_desc_next) == 0 && read_table(memory, desc, chain);
    add(chain, desc);
    if ((desc.flags & k_desc_next) == 0) return true;
    at = desc.next;
  }
  return false;
}

}  // namespace

void read_chain(const Ring& ring, const Memory& memory, uint16_t head, bool indirect,
                Chain& chain) {
  chain.segments.clear();
  chain.broken = !read_all(ring, memory, head, indirect, chain);
}

}  // namespace pv::vhost
