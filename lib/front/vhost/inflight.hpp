// SPDX-License-Identifier: MIT
// Which requests of a queue are under way, in memory that outlives us: the front end keeps it, and
// gives it to the server that comes after one that was killed, so that nothing is lost and nothing
// answered twice (vhost-user, "Inflight I/O tracking", split virtqueues).
#pragma once

#include <memory>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "front/vhost/protocol.hpp"

namespace pv::vhost {

struct InflightDesc {
  uint8_t inflight, padding[5];
  uint16_t next;
  uint64_t counter;
};
static_assert(sizeof(InflightDesc) == 16);
struct InflightQueue {
  uint64_t features;
  uint16_t version, desc_num, last_batch_head, used_idx;
  // then InflightDesc[desc_num]
};
static_assert(sizeof(InflightQueue) == 16);

// The area for all queues, mapped.
class InflightMap {
 public:
  static size_t bytes(uint16_t queues, uint16_t queue_size);
  // A new area and its file, for GET_INFLIGHT_FD.
  static Result<Fd> make(uint16_t queues, uint16_t queue_size);
  // Maps what the front end has kept.
  static Result<std::shared_ptr<InflightMap>> map(const InflightArea& area, const Fd& fd);
  ~InflightMap();
  InflightMap(const InflightMap&) = delete;
  InflightMap& operator=(const InflightMap&) = delete;

  // Null when there is none for a queue of this number and size.
  InflightQueue* queue(size_t index, uint16_t size) const;

 private:
  InflightMap(char* base, size_t mapped, size_t offset, const InflightArea& area, int guard)
      : base_(base), mapped_(mapped), offset_(offset), area_(area), guard_(guard) {}

  char* base_;
  size_t mapped_, offset_;
  InflightArea area_;
  int guard_;
};

// One queue's part. Without an area it keeps nothing.
class Inflight {
 public:
  // `used_index` is what the guest sees. Returns the heads that were under way, oldest first.
  std::vector<uint16_t> start(std::shared_ptr<InflightMap> map, size_t index, uint16_t size,
                              uint16_t used_index);
  void end() { queue_ = nullptr; }

  void begun(uint16_t head);
  // In the order in which answers are put; between the first of them and published() the guest's
  // used index does not change.
  void put(uint16_t head);
  void published(uint16_t used_index);

 private:
  InflightDesc* descs() const { return reinterpret_cast<InflightDesc*>(queue_ + 1); }
  void recover(uint16_t used_index);

  std::shared_ptr<InflightMap> map_;
  InflightQueue* queue_ = nullptr;
  uint16_t size_ = 0;
  uint64_t counter_ = 0;
  std::vector<uint16_t> batch_;
};

}  // namespace pv::vhost
