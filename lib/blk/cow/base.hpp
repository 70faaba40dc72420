// SPDX-License-Identifier: MIT
// By what a base is known again: its size, the time of its file, its content. Only while a stack is
// built: it waits for reads, on the loop where there is one.
#pragma once

#include <string_view>

#include "blk/cow/format.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

// How much data is read to know a base by all of it; of a larger one there are samples.
constexpr uint64_t k_base_whole = 64 << 20;

// Size, time and the edges: what is looked at each time an overlay is opened.
Result<BaseIdentity> look_at_base(Disk& base, Loop* loop);

// Of how much at either end, and of the bytes there: XXH3.
constexpr uint64_t k_base_edge = 64 << 10;
uint64_t edges_hash(std::string_view first, std::string_view last);

// Fills in `content`. A base whose `whole` is asked for is read completely.
Result<> read_base(Disk& base, Loop* loop, bool whole, BaseIdentity& identity);

// Whether all its data is little enough to be read.
Result<bool> small_base(Disk& base, Loop* loop);

// "" when `base` is the one that `known` speaks of, else what differs.
Result<std::string> base_differs(Disk& base, Loop* loop, const BaseIdentity& known);

}  // namespace pv::blk
