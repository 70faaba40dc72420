// SPDX-License-Identifier: MIT
// The memory that a VM shares with us: regions of files, mapped, found by guest-physical address
// (descriptors) or by the address that they have in the front end's process (rings). A table is
// never changed: a new one takes its place, and requests in flight keep theirs, with its mappings.
//
// The files are the client's, who may cut them at any time. Touching what is gone then is SIGBUS:
// here the missing page is replaced by one of zeroes.
#pragma once

#include <memory>
#include <sys/uio.h>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "front/vhost/protocol.hpp"

namespace pv::vhost {

class Region {
 public:
  // Code::invalid for a region that wraps around, is empty, or lies beyond its file.
  static Result<std::shared_ptr<const Region>> map(const MemRegion& about, const Fd& fd);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const MemRegion& about() const { return about_; }
  char* base() const { return base_; }

 private:
  Region(const MemRegion& about, char* mapping, size_t mapped);

  MemRegion about_;
  char* base_;  // of the region itself
  char* mapping_;
  size_t mapped_;
  int guard_;  // what SIGBUS knows it by
};

class Memory {
 public:
  // Null when it overlaps with another, or there are too many.
  std::shared_ptr<const Memory> with(std::shared_ptr<const Region> region) const;
  // Null when there is none that is just like it.
  std::shared_ptr<const Memory> without(const MemRegion& about) const;

  // Appends where [guest, guest + length) lies, a piece for each region that it crosses; false when
  // not all of it is memory. A length of zero is no address at all and always well.
  bool find(uint64_t guest, uint64_t length, std::vector<iovec>& pieces) const;
  // The same for what has to lie in one piece; null where it does not.
  char* find(uint64_t guest, uint64_t length) const;
  char* find_user(uint64_t user, uint64_t length) const;
  // Of an address that find() gave.
  uint64_t guest_address(const void* at) const;

 private:
  const Region* region_of(uint64_t guest) const;

  std::vector<std::shared_ptr<const Region>> regions_;
  mutable size_t last_ = 0;  // most addresses lie where the one before did
};

}  // namespace pv::vhost
