// SPDX-License-Identifier: MIT
#include "front/vhost/config.hpp"

#include <algorithm>
#include <bit>

namespace pv::vhost {

namespace {
constexpr uint32_t k_max_range_sectors = 1 << 21;  // 1 GiB
}

uint64_t features_of(const blk::Geometry& geometry) {
  uint64_t features = k_f_log_all | k_f_indirect | k_f_event_idx | k_f_protocol | k_f_version_1 |
                      k_blk_size_max | k_blk_seg_max | k_blk_blk_size | k_blk_flush |
                      k_blk_topology | k_blk_config_wce | k_blk_mq;
  if (geometry.read_only) return features | k_blk_ro;
  features |= k_blk_write_zeroes;
  if (geometry.discard != blk::DiscardBehaviour::ignored) features |= k_blk_discard;
  return features;
}

BlkConfig config_of(const blk::Geometry& geometry, bool writeback) {
  BlkConfig config{};
  const uint32_t block = geometry.sector_size;
  config.capacity = geometry.size / k_sector;
  config.size_max = k_max_segment;
  config.seg_max = k_max_segments;
  config.blk_size = block;
  config.physical_block_exp = static_cast<uint8_t>(std::countr_zero(geometry.physical_sector_size) -
                                                   std::countr_zero(block));
  config.min_io_size =
      static_cast<uint16_t>(std::min<uint32_t>(geometry.physical_sector_size / block, UINT16_MAX));
  config.writeback = writeback ? 1 : 0;
  config.num_queues = k_max_queues;
  if (geometry.read_only) return config;
  config.max_write_zeroes_sectors = k_max_range_sectors;
  config.max_write_zeroes_seg = k_max_ranges;
  config.write_zeroes_may_unmap = 1;
  if (geometry.discard == blk::DiscardBehaviour::ignored) return config;
  config.max_discard_sectors = k_max_range_sectors;
  config.max_discard_seg = k_max_ranges;
  config.discard_sector_alignment =
      static_cast<uint32_t>(std::max<uint64_t>(geometry.discard_granularity, block) / k_sector);
  return config;
}

}  // namespace pv::vhost
