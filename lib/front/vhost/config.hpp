// SPDX-License-Identifier: MIT
// What a client is offered of a disk: feature bits, and the device's configuration space.
#pragma once

#include "blk/disk.hpp"
#include "front/vhost/protocol.hpp"

namespace pv::vhost {

uint64_t features_of(const blk::Geometry& geometry);
constexpr uint64_t k_protocol_features = k_proto_mq | k_proto_log_shmfd | k_proto_reply_ack |
                                         k_proto_backend_req | k_proto_config | k_proto_inflight |
                                         k_proto_reset_device | k_proto_mem_slots;
BlkConfig config_of(const blk::Geometry& geometry, bool writeback);

}  // namespace pv::vhost
