// SPDX-License-Identifier: MIT
// The numbers and structures of vhost-user (QEMU's docs/interop/vhost-user.rst) and of split
// virtqueues (virtio 1.2, 2.7) as the test front end writes and reads them. All of it is plain data
// in the machine's byte order. Nothing here is shared with the server under test: a number that is
// wrong on one side must be seen.
#pragma once

#include <cstdint>

namespace pv::test::vhost {

// What a front end asks.
namespace request {
enum : uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  set_backend_req_fd = 21,
  get_config = 24,
  set_config = 25,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  reset_device = 34,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
};
}  // namespace request

// What a back end asks, on the channel that SET_BACKEND_REQ_FD has given it.
namespace backend_request {
enum : uint32_t { config_change = 2 };
}

// Flags of a message's header.
constexpr uint32_t k_version = 1;
constexpr uint32_t k_version_mask = 3;
constexpr uint32_t k_reply = 1 << 2;
constexpr uint32_t k_need_reply = 1 << 3;

constexpr uint64_t bit(unsigned number) {
  return uint64_t{1} << number;
}

// Of GET_FEATURES, beside the device's own.
constexpr uint64_t k_f_log_all = bit(26);
constexpr uint64_t k_f_indirect_desc = bit(28);
constexpr uint64_t k_f_event_idx = bit(29);
constexpr uint64_t k_f_protocol_features = bit(30);
constexpr uint64_t k_f_version_1 = bit(32);

// What the front end knows what to do with: these, and bits that are the device's own.
constexpr uint64_t k_f_known = k_f_log_all | k_f_indirect_desc | k_f_event_idx |
                               k_f_protocol_features | k_f_version_1 | (bit(24) - 1);

// Of GET_PROTOCOL_FEATURES.
constexpr uint64_t k_p_mq = bit(0);
constexpr uint64_t k_p_log_shmfd = bit(1);
constexpr uint64_t k_p_reply_ack = bit(3);
constexpr uint64_t k_p_backend_req = bit(5);
constexpr uint64_t k_p_config = bit(9);
constexpr uint64_t k_p_inflight_shmfd = bit(12);
constexpr uint64_t k_p_reset_device = bit(13);
constexpr uint64_t k_p_configure_mem_slots = bit(15);
// What the front end knows what to do with.
constexpr uint64_t k_p_known = k_p_mq | k_p_log_shmfd | k_p_reply_ack | k_p_backend_req |
                               k_p_config | k_p_inflight_shmfd | k_p_reset_device |
                               k_p_configure_mem_slots;

struct Header {
  uint32_t request, flags, size;
};

struct VringState {
  uint32_t index, num;
};

struct VringAddr {
  uint32_t index, flags;
  uint64_t descriptor, used, available, log;  // user addresses; `log` is a guest address
};
constexpr uint32_t k_vring_f_log = 1;       // of VringAddr::flags
constexpr uint64_t k_vring_no_fd = bit(8);  // of the u64 of SET_VRING_KICK, _CALL and _ERR

struct MemoryRegion {
  uint64_t guest, size, user, mmap_offset;
};

struct SingleRegion {  // ADD_MEM_REG, REM_MEM_REG
  uint64_t padding;
  MemoryRegion region;
};

struct LogArea {
  uint64_t size, offset;
};
constexpr uint64_t k_log_page = 4096;

struct ConfigHeader {  // the bytes follow
  uint32_t offset, size, flags;
};

struct Inflight {
  uint64_t mmap_size, mmap_offset;
  uint16_t queues, queue_size;
  uint32_t padding;  // QEMU sends it
};
constexpr uint32_t k_inflight_fields = 20;  // without the padding

// A queue's part of the in-flight region, followed by one state a descriptor.
struct InflightQueue {
  uint64_t features;
  uint16_t version, descriptors, last_batch_head, used_idx;
};
struct InflightState {
  uint8_t inflight, padding[5];
  uint16_t next;
  uint64_t counter;
};

// A descriptor of a split virtqueue, in the table or in an indirect one.
struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags, next;
};
constexpr uint16_t k_desc_next = 1;
constexpr uint16_t k_desc_write = 2;  // the device writes it
constexpr uint16_t k_desc_indirect = 4;

constexpr uint16_t k_avail_no_interrupt = 1;  // the driver's avail.flags
constexpr uint16_t k_used_no_notify = 1;      // the device's used.flags

struct UsedElement {
  uint32_t id, len;
};

static_assert(sizeof(Header) == 12 && sizeof(VringAddr) == 40 && sizeof(Descriptor) == 16);
static_assert(sizeof(SingleRegion) == 40 && sizeof(InflightQueue) == 16);
static_assert(sizeof(InflightState) == 16);

}  // namespace pv::test::vhost
