// SPDX-License-Identifier: MIT
// What the registry needs to know of each layer: its keys and its factory.
#pragma once

#include "blk/registry.hpp"

namespace pv::blk {

std::span<const ParamSpec> cache_params();
Result<std::unique_ptr<Disk>> make_cache(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env);

std::span<const ParamSpec> crypt_params();
Result<std::unique_ptr<Disk>> make_crypt(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env);

std::span<const ParamSpec> cow_params();
Result<std::unique_ptr<Disk>> make_cow(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                       const Env& env);

std::span<const ParamSpec> delay_params();
Result<std::unique_ptr<Disk>> make_delay(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env);

std::span<const ParamSpec> discard_params();
Result<std::unique_ptr<Disk>> make_discard(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env& env);

std::span<const ParamSpec> fua_params();
Result<std::unique_ptr<Disk>> make_fua(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                       const Env& env);

std::span<const ParamSpec> history_params();
Result<std::unique_ptr<Disk>> make_history(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env& env);

std::span<const ParamSpec> mirror_params();
Result<std::unique_ptr<Disk>> make_mirror(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env);

std::span<const ParamSpec> readonly_params();
Result<std::unique_ptr<Disk>> make_readonly(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                            const Env& env);

std::span<const ParamSpec> stats_params();
Result<std::unique_ptr<Disk>> make_stats(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env);

std::span<const ParamSpec> fault_params();
Result<std::unique_ptr<Disk>> make_fault(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env);

std::span<const ParamSpec> readcache_params();
Result<std::unique_ptr<Disk>> make_readcache(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                             const Env& env);

std::span<const ParamSpec> record_params();
Result<std::unique_ptr<Disk>> make_record(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env);

std::span<const ParamSpec> reserve_params();
Result<std::unique_ptr<Disk>> make_reserve(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env& env);

std::span<const ParamSpec> stripe_params();
Result<std::unique_ptr<Disk>> make_stripe(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env);

std::span<const ParamSpec> throttle_params();
Result<std::unique_ptr<Disk>> make_throttle(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                            const Env& env);

}  // namespace pv::blk
