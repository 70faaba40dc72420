// SPDX-License-Identifier: MIT
#include "lane.hpp"

#include <algorithm>
#include <cstring>

namespace pv::test::vhost {

void fill_pattern(uint64_t seed, uint64_t sector, char* bytes, size_t count) {
  const uint64_t first = sector * (k_sector / sizeof(uint64_t));
  for (size_t at = 0; at + sizeof(uint64_t) <= count; at += sizeof(uint64_t)) {
    const uint64_t word = mix(seed, first + at / sizeof(uint64_t));
    std::memcpy(bytes + at, &word, sizeof word);
  }
}

bool is_pattern(uint64_t seed, uint64_t sector, const char* bytes, size_t count) {
  const uint64_t first = sector * (k_sector / sizeof(uint64_t));
  for (size_t at = 0; at + sizeof(uint64_t) <= count; at += sizeof(uint64_t)) {
    const uint64_t word = mix(seed, first + at / sizeof(uint64_t));
    if (std::memcmp(bytes + at, &word, sizeof word) != 0) return false;
  }
  return true;
}

unsigned descriptors_of(const Load& load) {
  if (load.indirect) return 1;
  const uint32_t segment = load.segment == 0 ? load.bytes : load.segment;
  return 2 + (load.bytes + segment - 1) / segment;
}

Result<Lane> Lane::make(Driver& driver, unsigned index, const Load& load, uint64_t begin,
                        uint64_t end, Tally& tally) {
  Lane lane;
  lane.tally_ = &tally;
  lane.load_ = load;
  lane.queue_ = &driver.queue(index);
  lane.rng_ = Rng(mix(fresh_seed(), index));
  lane.begin_ = lane.next_ = begin;
  lane.end_ = end;
  lane.slot_of_.resize(1 << 16);
  for (unsigned number = 0; number < load.depth; ++number) {
    TRY_ASSIGN(Slot slot, lane.make_slot(driver.memory()));
    lane.slot_of_[slot.head] = static_cast<uint16_t>(number);
    lane.slots_.push_back(slot);
  }
  return lane;
}

Result<Lane::Slot> Lane::make_slot(Memory& memory) {
  Slot slot;
  // Not next to each other: the device writes one of them while we write the other.
  TRY_ASSIGN(const uint64_t header, memory.allocate(sizeof(BlkHeader), 64));
  TRY_ASSIGN(const uint64_t status, memory.allocate(1, 64));
  TRY_ASSIGN(const uint64_t data, memory.allocate(load_.bytes, 4096));
  slot.header = reinterpret_cast<BlkHeader*>(memory.at(header, sizeof(BlkHeader)));
  slot.status = reinterpret_cast<uint8_t*>(memory.at(status, 1));
  slot.data = memory.at(data, load_.bytes);
  *slot.header = {load_.write ? blk_type::out : blk_type::in, 0, 0};
  // Data that differs from the start, and no page of it shared with another.
  fill_pattern(data, 0, slot.data, load_.bytes);
  std::vector<Segment> chain = {{header, sizeof(BlkHeader), false}};
  const uint32_t segment = load_.segment == 0 ? load_.bytes : load_.segment;
  for (uint32_t at = 0; at < load_.bytes; at += segment)
    chain.push_back({data + at, std::min(segment, load_.bytes - at), !load_.write});
  chain.push_back({status, 1, true});
  TRY_ASSIGN(slot.head, queue_->add(chain, load_.indirect));
  return slot;
}

bool Lane::send(Slot& slot, uint64_t now_ns) {
  if (load_.random) {
    slot.block = begin_ + rng_.below(end_ - begin_);
  } else {
    if (next_ == end_) {
      if (load_.once) return false;
      next_ = begin_;
    }
    slot.block = next_++;
  }
  slot.header->sector = slot.block * (load_.bytes / k_sector);
  slot.started_ns = now_ns;
  *slot.status = k_not_written;
  if (load_.write && load_.verify)
    fill_pattern(*load_.verify, slot.header->sector, slot.data, load_.bytes);
  queue_->stage(slot.head);
  ++in_flight_;
  return true;
}

void Lane::complete(Slot& slot, uint64_t now_ns) {
  --in_flight_;
  ++tally_->completed;
  tally_->latency.add(now_ns - slot.started_ns);
  if (*slot.status != k_ok) {
    ++tally_->errors;
  } else if (load_.verify) {
    if (load_.write)
      tally_->written[slot.block] = true;
    else if (!is_pattern(*load_.verify, slot.header->sector, slot.data, load_.bytes))
      ++tally_->mismatches;
  }
}

void Lane::begin(uint64_t now_ns) {
  queue_->want_call(false);
  for (Slot& slot : slots_)
    if (!send(slot, now_ns)) break;
  queue_->commit();
  queue_->kick();
}

Result<unsigned> Lane::collect(uint64_t now_ns, bool more) {
  unsigned taken = 0;
  bool staged = false;
  while (queue_->has_used()) {
    TRY_ASSIGN(const std::optional<UsedElement> used, queue_->take_keep());
    Slot& slot = slots_[slot_of_[used->id]];
    complete(slot, now_ns);
    staged |= more && send(slot, now_ns);
    ++taken;
  }
  if (staged) {
    queue_->commit();
    queue_->kick();
  }
  return taken;
}

}  // namespace pv::test::vhost
