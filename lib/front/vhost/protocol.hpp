// SPDX-License-Identifier: MIT
// Names and layouts of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst) and of the
// virtio block device (Virtual I/O Device 1.2, sections 2.7 and 5.2). All little-endian, as is the
// machine: vhost-user is spoken in the host's order, VERSION_1 rings are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pv::vhost {

// Messages of the front end (the VM).
enum Ask : uint32_t {
  k_get_features = 1,
  k_set_features = 2,
  k_set_owner = 3,
  k_reset_owner = 4,
  k_set_mem_table = 5,
  k_set_log_base = 6,
  k_set_log_fd = 7,
  k_set_vring_num = 8,
  k_set_vring_addr = 9,
  k_set_vring_base = 10,
  k_get_vring_base = 11,
  k_set_vring_kick = 12,
  k_set_vring_call = 13,
  k_set_vring_err = 14,
  k_get_protocol_features = 15,
  k_set_protocol_features = 16,
  k_get_queue_num = 17,
  k_set_vring_enable = 18,
  k_set_backend_req_fd = 21,
  k_get_config = 24,
  k_set_config = 25,
  k_get_inflight_fd = 31,
  k_set_inflight_fd = 32,
  k_reset_device = 34,
  k_get_max_mem_slots = 36,
  k_add_mem_reg = 37,
  k_rem_mem_reg = 38,
};
// Ours, on the channel that SET_BACKEND_REQ_FD brings.
constexpr uint32_t k_config_change_msg = 2;

struct Header {
  uint32_t request, flags, size;
};
static_assert(sizeof(Header) == 12);
constexpr uint32_t k_version = 1, k_version_mask = 3, k_reply = 4, k_need_reply = 8;
constexpr size_t k_max_payload = 4096;
constexpr size_t k_max_fds = 8;  // a memory table's

// Protocol features.
constexpr uint64_t k_proto_mq = 1ULL << 0, k_proto_log_shmfd = 1ULL << 1,
                   k_proto_reply_ack = 1ULL << 3, k_proto_backend_req = 1ULL << 5,
                   k_proto_config = 1ULL << 9, k_proto_inflight = 1ULL << 12,
                   k_proto_reset_device = 1ULL << 13, k_proto_mem_slots = 1ULL << 15;

// Feature bits: virtio's own, vhost's, the block device's.
constexpr uint64_t k_f_log_all = 1ULL << 26, k_f_indirect = 1ULL << 28, k_f_event_idx = 1ULL << 29,
                   k_f_protocol = 1ULL << 30, k_f_version_1 = 1ULL << 32;
constexpr uint64_t k_blk_size_max = 1U << 1, k_blk_seg_max = 1U << 2, k_blk_ro = 1U << 5,
                   k_blk_blk_size = 1U << 6, k_blk_flush = 1U << 9, k_blk_topology = 1U << 10,
                   k_blk_config_wce = 1U << 11, k_blk_mq = 1U << 12, k_blk_discard = 1U << 13,
                   k_blk_write_zeroes = 1U << 14;

constexpr uint64_t k_no_fd = 0x100;      // in SET_VRING_KICK and its like: no descriptor comes
constexpr uint64_t k_queue_mask = 0xff;  // ... and the queue's number

struct VringState {
  uint32_t index, num;
};
struct VringAddr {
  uint32_t index, flags;
  uint64_t desc, used, avail;  // addresses of the front end's process
  uint64_t log;                // of the used ring in the log, a guest-physical address
};
static_assert(sizeof(VringAddr) == 40);
constexpr uint32_t k_vring_log = 1;

struct MemRegion {
  uint64_t guest, size, user, mmap_offset;
};
struct MemTable {
  uint32_t count, padding;
};
struct MemSlot {
  uint64_t padding;
  MemRegion region;
};
struct LogArea {
  uint64_t size, offset;
};
struct InflightArea {
  uint64_t size, offset;
  uint16_t queues, queue_size;
};
constexpr size_t k_inflight_area_size = 20;  // on the wire; the struct is padded
struct ConfigHead {
  uint32_t offset, size, flags;
};
constexpr size_t k_max_config = 256;

// A split virtqueue's parts in guest memory.
struct Desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags, next;
};
constexpr uint16_t k_desc_next = 1, k_desc_write = 2, k_desc_indirect = 4;
struct AvailHead {
  uint16_t flags, idx;  // then ring[num], used_event
};
struct UsedElem {
  uint32_t id, len;
};
struct UsedHead {
  uint16_t flags, idx;  // then ring[num], avail_event
};
constexpr uint16_t k_avail_no_interrupt = 1, k_used_no_notify = 1;
constexpr uint32_t k_max_ring = 32768;

// virtio-blk requests.
enum class BlkType : uint32_t {
  in = 0,
  out = 1,
  flush = 4,
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};
enum BlkStatus : uint8_t { k_ok = 0, k_ioerr = 1, k_unsupp = 2 };
struct BlkHeader {
  uint32_t type, reserved;
  uint64_t sector;
};
struct BlkRange {  // of a discard or write zeroes
  uint64_t sector;
  uint32_t sectors, flags;
};
constexpr uint32_t k_range_unmap = 1;
constexpr uint64_t k_sector = 512;
constexpr size_t k_id_bytes = 20;

struct __attribute__((packed)) BlkConfig {
  uint64_t capacity;  // sectors of 512 bytes
  uint32_t size_max, seg_max;
  uint16_t cylinders;
  uint8_t heads, sectors;
  uint32_t blk_size;
  uint8_t physical_block_exp, alignment_offset;
  uint16_t min_io_size;
  uint32_t opt_io_size;
  uint8_t writeback, unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
  uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(sizeof(BlkConfig) == 60);
constexpr size_t k_wce_at = 32;  // of `writeback`

// What a client may rely on.
constexpr uint32_t k_max_queues = 64;
constexpr uint32_t k_max_slots = 64;           // memory regions
constexpr uint32_t k_max_segments = 254;       // data descriptors of a request
constexpr uint32_t k_max_segment = 128 << 10;  // so that the longest request is a legal one
constexpr uint64_t k_max_transfer = 32 << 20;
constexpr size_t k_max_pieces = 1024;  // IOV_MAX
constexpr uint32_t k_max_ranges = 16;  // of one discard

}  // namespace pv::vhost
