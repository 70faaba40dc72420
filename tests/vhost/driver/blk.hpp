// SPDX-License-Identifier: MIT
// The block device of virtio 1.2 (5.2) over a Driver's queue: requests as a guest makes them, or as
// it should not (any type, sizes, directions and order of the parts). A request is put together in
// guest memory, sent, and waited for; what comes back is the status byte, the used length and the
// data. One thread, the driver's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "driver.hpp"

namespace pv::test::vhost {

// Feature bits of the block device.
constexpr uint64_t k_blk_size_max = bit(1);
constexpr uint64_t k_blk_seg_max = bit(2);
constexpr uint64_t k_blk_ro = bit(5);
constexpr uint64_t k_blk_blk_size = bit(6);
constexpr uint64_t k_blk_flush = bit(9);
constexpr uint64_t k_blk_topology = bit(10);
constexpr uint64_t k_blk_config_wce = bit(11);
constexpr uint64_t k_blk_mq = bit(12);
constexpr uint64_t k_blk_discard = bit(13);
constexpr uint64_t k_blk_write_zeroes = bit(14);

namespace blk_type {
enum : uint32_t { in = 0, out = 1, flush = 4, get_id = 8, discard = 11, write_zeroes = 13 };
}

constexpr uint8_t k_ok = 0;
constexpr uint8_t k_ioerr = 1;
constexpr uint8_t k_unsupp = 2;
constexpr uint8_t k_not_written = 0xee;  // what a status byte is before the device writes it

// What a guest makes of a status; EINVAL for one that there is not.
int errno_of(uint8_t status);

constexpr uint64_t k_sector = 512;
constexpr uint32_t k_id_bytes = 20;
constexpr uint32_t k_unmap = 1;  // flag of a range of write zeroes

struct BlkHeader {
  uint32_t type, priority;
  uint64_t sector;
};

struct BlkRange {  // of discard and write zeroes
  uint64_t sector;
  uint32_t sectors, flags;
};

struct [[gnu::packed]] BlkConfig {
  uint64_t capacity;  // in sectors
  uint32_t size_max, seg_max;
  uint16_t cylinders;
  uint8_t heads, sectors;
  uint32_t blk_size;
  uint8_t physical_block_exp, alignment_offset;
  uint16_t min_io_size;
  uint32_t opt_io_size;
  uint8_t wce, unused;
  uint16_t queues;
  uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
  uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(sizeof(BlkHeader) == 16 && sizeof(BlkRange) == 16 && sizeof(BlkConfig) == 60);

struct BlkRequest {
  uint32_t type = blk_type::in;
  uint64_t sector = 0;
  std::string out = {};           // what the device reads, after the header
  std::vector<uint32_t> in = {};  // sizes of the segments that the device writes
  std::vector<uint32_t> split =
      {};  // sizes of the segments of `out`; what is left over is one more
  bool indirect = false;
  int region = -1;                            // of guest memory, for the data
  uint32_t header_bytes = sizeof(BlkHeader);  // fewer: the header's descriptor is short
  uint32_t status_bytes = 1;                  // 0: there is no status
};

struct BlkReply {
  uint8_t status = k_not_written;
  uint32_t used_length = 0;
  std::string data;  // all segments of `in`; 0xdd where the device has written nothing
};

class Blk {
 public:
  explicit Blk(Driver& driver, unsigned queue = 0) : driver_(driver), index_(queue) {}
  // With calls, or by looking at the used ring.
  void use(Notify how) { how_ = how; }

  Result<BlkConfig> config();

  Result<BlkReply> read(uint64_t sector, uint32_t bytes);
  Result<BlkReply> write(uint64_t sector, std::string_view bytes);
  Result<BlkReply> flush();
  Result<BlkReply> get_id(uint32_t bytes = k_id_bytes);
  Result<BlkReply> discard(const std::vector<BlkRange>& ranges);
  Result<BlkReply> write_zeroes(const std::vector<BlkRange>& ranges);
  Result<BlkReply> run(const BlkRequest& request);

  // The same in steps, for several at once. prepare() puts the parts into memory and the chain into
  // the table; the caller may spoil both before it publishes the head. submit() does both and
  // kicks.
  Result<uint16_t> prepare(const BlkRequest& request);
  Result<uint16_t> submit(const BlkRequest& request);
  // Waits until this one is answered; others that are answered meanwhile are kept for later.
  Result<BlkReply> finish(uint16_t head);
  // Whichever is answered next: its head and its reply.
  Result<std::pair<uint16_t, BlkReply>> next();
  // Where the parts of a prepared request are, in order: header, data, status.
  std::vector<Segment> parts(uint16_t head) const;

  Queue& queue() { return driver_.queue(index_); }

 private:
  struct Pending {
    std::vector<Segment> chain;
    uint64_t status_at = 0;  // 0: none
    size_t first_in = 0;     // the first segment of the data that comes back
  };
  Result<uint64_t> place(Pending& pending, std::string_view bytes, bool write, int region);
  void free(const Pending& pending);

  Driver& driver_;
  unsigned index_;
  Notify how_ = Notify::call;
  std::map<uint16_t, Pending> pending_;
  std::map<uint16_t, BlkReply> answered_;
};

}  // namespace pv::test::vhost
