// SPDX-License-Identifier: MIT
#include "blk/fault/truth.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "blk/segments.hpp"

namespace pv::blk {

char* Truth::slot(uint64_t rule, uint64_t offset) {
  const auto found = sectors_.find(offset);
  if (found != sectors_.end()) {
    found->second.rule = rule;
    return found->second.data.get();
  }
  if (bytes() + sector_size_ > k_max_bytes) {
    ++not_kept_;
    return nullptr;
  }
  Sector& sector = sectors_[offset];
  sector = {rule, std::make_unique<char[]>(sector_size_)};
  return sector.data.get();
}

void Truth::remember(uint64_t rule, uint64_t offset, const char* data, uint64_t length) {
  for (uint64_t at = 0; at < length; at += sector_size_) {
    char* to = slot(rule, offset + at);
    if (to == nullptr) continue;
    if (data != nullptr)
      std::memcpy(to, data + at, sector_size_);
    else
      std::memset(to, 0, sector_size_);
  }
}

void Truth::remember(uint64_t rule, const Request& request, uint64_t from, uint64_t length) {
  if (request.op != Op::write) return remember(rule, request.offset + from, nullptr, length);
  for (uint64_t at = from; at < from + length; at += sector_size_)
    if (char* to = slot(rule, request.offset + at)) gather(request, at, to, sector_size_);
}

void Truth::forget(uint64_t offset, uint64_t length) {
  if (sectors_.empty() || length == 0) return;
  sectors_.erase(sectors_.lower_bound(offset), sectors_.lower_bound(offset + length));
}

const char* Truth::at(uint64_t offset) const {
  const auto found = sectors_.find(offset);
  return found == sectors_.end() ? nullptr : found->second.data.get();
}

void Truth::take(uint64_t rule, uint64_t max, const Stretch& stretch) {
  auto sector = sectors_.begin();
  while (sector != sectors_.end()) {
    if (rule != 0 && sector->second.rule != rule) {
      ++sector;
      continue;
    }
    auto end = sector;
    uint64_t length = 0;
    while (end != sectors_.end() && end->first == sector->first + length &&
           (rule == 0 || end->second.rule == rule) && length < max) {
      length += sector_size_;
      ++end;
    }
    std::shared_ptr<char[]> data(new char[length]);
    const uint64_t offset = sector->first;
    for (auto one = sector; one != end; ++one)
      std::memcpy(data.get() + (one->first - offset), one->second.data.get(), sector_size_);
    sector = sectors_.erase(sector, end);
    stretch(offset, std::move(data), length);
  }
}

}  // namespace pv::blk
