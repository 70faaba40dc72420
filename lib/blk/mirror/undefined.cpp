// SPDX-License-Identifier: MIT
#include "blk/mirror/undefined.hpp"

#include <algorithm>
#include <bit>

namespace pv::blk {
namespace {

constexpr uint64_t k_smallest_chunk = 1 << 20;

}  // namespace

UndefinedMap::UndefinedMap(uint64_t size) : size_(size), chunk_(k_smallest_chunk) {
  while (size / chunk_ >= k_max_chunks) chunk_ *= 2;
  states_.resize(size / chunk_ + 1);
}

UndefinedMap UndefinedMap::resized(uint64_t size) const {
  UndefinedMap copy(size);
  for (uint64_t i = 0; undefined_chunks_ != 0 && i < states_.size() && i * chunk_ < size; ++i) {
    const uint64_t end = std::min(size, (i + 1) * chunk_);
    if (states_[i] == whole) copy.set(i * chunk_, end, true);
    for (uint64_t at = i * chunk_; states_[i] == partial && at < end; at += k_sector)
      if (get(at)) copy.set(at, at + k_sector, true);
  }
  return copy;
}

void UndefinedMap::set(uint64_t begin, uint64_t end, bool undefined) {
  if (!undefined && empty()) return;
  for (uint64_t at = begin; at < end;) {
    const uint64_t chunk = at / chunk_, next = std::min(end, (chunk + 1) * chunk_);
    set_chunk(chunk, at % chunk_ / k_sector, (next - chunk * chunk_) / k_sector, undefined);
    at = next;
  }
}

uint64_t UndefinedMap::bytes() const {
  uint64_t sum = 0;
  for (uint64_t i = 0; !empty() && i < states_.size(); ++i) {
    if (states_[i] == whole) sum += std::min(chunk_, size_ - i * chunk_);
    if (states_[i] != partial) continue;
    for (const uint64_t word : bits_.at(i))
      sum += static_cast<uint64_t>(std::popcount(word)) * k_sector;
  }
  return sum;
}

void UndefinedMap::become(uint64_t chunk, State state) {
  if (states_[chunk] == partial) bits_.erase(chunk);
  undefined_chunks_ += (state != defined) - (states_[chunk] != defined);
  states_[chunk] = state;
}

// Makes the chunk one that has bits; null when there is no room for more.
UndefinedMap::Bits* UndefinedMap::split(uint64_t chunk, bool was_undefined) {
  const uint64_t words = chunk_ / k_sector / 64;
  if ((bits_.size() + 1) * words * sizeof(uint64_t) > k_max_bits) {
    ++coarse_;
    return nullptr;
  }
  become(chunk, partial);
  Bits& bits = bits_[chunk];
  bits.assign(words, was_undefined ? UINT64_MAX : 0);
  return &bits;
}

// Sectors [begin, end) of the chunk.
void UndefinedMap::set_chunk(uint64_t chunk, uint64_t begin, uint64_t end, bool undefined) {
  if (begin == 0 && end == chunk_ / k_sector) return become(chunk, undefined ? whole : defined);
  if (states_[chunk] == (undefined ? whole : defined)) return;
  Bits* bits = states_[chunk] == partial ? &bits_[chunk] : split(chunk, states_[chunk] == whole);
  if (bits == nullptr) return become(chunk, whole);
  for (uint64_t i = begin; i < end; ++i) {
    const uint64_t bit = uint64_t{1} << i % 64;
    (*bits)[i / 64] = undefined ? (*bits)[i / 64] | bit : (*bits)[i / 64] & ~bit;
  }
  if (!undefined && std::all_of(bits->begin(), bits->end(), [](uint64_t w) { return w == 0; }))
    become(chunk, defined);
}

bool UndefinedMap::get(uint64_t offset) const {
  const uint64_t chunk = offset / chunk_;
  if (states_[chunk] != partial) return states_[chunk] == whole;
  const uint64_t i = offset % chunk_ / k_sector;
  return (bits_.at(chunk)[i / 64] >> i % 64 & 1) != 0;
}

}  // namespace pv::blk
