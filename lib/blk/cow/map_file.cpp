// SPDX-License-Identifier: MIT
// The map and its file while nothing is in flight: made, opened, resized, closed.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "blk/cow/map.hpp"

namespace pv::blk {
namespace {

// A state that is none, anywhere in a page.
bool has_bad_state(const unsigned char* states) {
  for (uint64_t i = 0; i < k_cow_states; ++i)
    if ((states[i] & states[i] >> 1 & 0x55) != 0) return true;
  return false;
}

}  // namespace

Result<std::unique_ptr<CowMap>> CowMap::create(std::unique_ptr<CowStore> store,
                                               const CowHeader& fresh) {
  std::unique_ptr<CowMap> map(new CowMap(std::move(store), fresh));
  map->aborted_ = true;
  TRY(map->store_->set_length(map->layout_.file_length(fresh.size)));
  TRY(map->write_header());
  TRY(map->write_header());  // both slots: an overlay on a full disk must open again
  map->aborted_ = false;
  return map;
}

Result<std::unique_ptr<CowMap>> CowMap::open(std::unique_ptr<CowStore> store) {
  const std::string name = store->name();
  TRY_ASSIGN(const uint64_t length, store->length());
  std::array<char, 2 * k_cow_page> head{};
  if (length < head.size())
    return fail(Code::invalid, fmt::format("{} is no overlay of a cow layer", name));
  TRY(store->read(0, head.data(), head.size()));
  CowHeader slots[2];
  const Decoded found[2] = {decode_header(head.data(), slots[0]),
                            decode_header(head.data() + k_cow_page, slots[1])};
  if (!has_cow_magic(head.data()) && !has_cow_magic(head.data() + k_cow_page))
    return fail(Code::invalid, fmt::format("{} is no overlay of a cow layer", name));
  // A header is one sector, which a power cut does not tear: a bad one is damage.
  for (unsigned slot = 0; slot < 2; ++slot)
    if (found[slot] == Decoded::bad)
      return fail(Code::invalid,
                  fmt::format("overlay {} is damaged: header at byte {}", name, slot * k_cow_page));
  const bool second = slots[1].sequence > slots[0].sequence;
  const CowHeader& header = slots[second ? 1 : 0];
  const CowLayout layout{header.block};
  if (length < layout.file_length(header.size))
    return fail(Code::invalid, fmt::format("overlay {} is cut short: {} bytes of {}", name, length,
                                           layout.file_length(header.size)));
  std::unique_ptr<CowMap> map(new CowMap(std::move(store), header));
  map->aborted_ = true;  // until it is known to be good, nothing is written to it
  TRY(map->load());
  map->aborted_ = false;
  return map;
}

Result<> CowMap::load() {
  for (uint64_t index = 0; index < groups_.size(); ++index) TRY(load_group(index));
  // A shrink that was cut off after its header.
  TRY_ASSIGN(const uint64_t length, store_->length());
  if (length > layout_.file_length(header_.size) && !store_->read_only())
    TRY(store_->set_length(layout_.file_length(header_.size)));
  mask_tail();
  for (const auto& group : groups_)
    if (group) count(*group, 1);
  if (store_->read_only()) return {};
  header_.closed = false;
  return write_header();
}

Result<> CowMap::load_group(uint64_t index) {
  std::array<char, 2 * k_cow_page> slots;
  TRY(store_->read(layout_.slot_at(index, 0), slots.data(), slots.size()));
  uint64_t sequences[2];
  const Decoded found[2] = {check_page(slots.data(), header_.id, index, sequences[0]),
                            check_page(slots.data() + k_cow_page, header_.id, index, sequences[1])};
  const bool torn = found[0] == Decoded::bad || found[1] == Decoded::bad;
  const unsigned best = sequences[1] > sequences[0] ? 1 : 0;
  const auto damaged = [&](unsigned slot) {
    return fail(Code::invalid, fmt::format("overlay {} is damaged: map page at byte {}",
                                           store_->name(), layout_.slot_at(index, slot)));
  };
  // After a crash one slot may be torn, the one that was not in force. After an orderly close none,
  // and the two follow each other.
  if (found[0] == Decoded::bad && found[1] == Decoded::bad) return damaged(0);
  if (torn && header_.closed) return damaged(found[0] == Decoded::bad ? 0 : 1);
  if (header_.closed && sequences[best] > 1 && sequences[best ^ 1U] + 1 != sequences[best])
    return damaged(best ^ 1U);
  // A torn slot is the first one ever written, or the older slot is there.
  if (torn && found[0] != Decoded::good && found[1] != Decoded::good && found[1] == Decoded::bad)
    return damaged(1);
  if (sequences[best] == 0 && !torn) return {};
  Group& into = group(index);
  into.sequence = sequences[best];
  if (sequences[best] != 0) {
    into.slot = static_cast<uint8_t>(best);
    std::memcpy(into.states, page_states(slots.data() + best * k_cow_page), k_cow_states);
  }
  if (has_bad_state(into.states)) return damaged(best);
  if (torn) change(into, index);  // so that it is whole again when the overlay is closed
  return {};
}

// Blocks behind the end are absent; true when one was not.
bool CowMap::mask_tail() {
  const uint64_t blocks = layout_.blocks(header_.size), rest = blocks % k_cow_group;
  if (rest == 0 || !groups_.back()) return false;
  Group& last = *groups_.back();
  bool changed = false;
  for (uint64_t i = rest; i < k_cow_group; ++i) {
    const unsigned mask = 3U << (i % 4 * 2);
    changed = changed || (last.states[i / 4] & mask) != 0;
    last.states[i / 4] = static_cast<unsigned char>(last.states[i / 4] & ~mask);
  }
  if (changed) change(last, groups_.size() - 1);
  return changed;
}

void CowMap::count(Group& group, int sign) {
  for (const unsigned char four : group.states)
    for (int shift = 0; four != 0 && shift < 8; shift += 2)
      counts_[four >> shift & 3] += static_cast<uint64_t>(static_cast<int64_t>(sign));
}

Result<> CowMap::write_header() {
  ++header_.sequence;
  char sector[k_cow_header_sector];
  encode_header(header_, sector);
  TRY(store_->write(header_.sequence % 2 * k_cow_page, sector, sizeof sector));
  return store_->sync();
}

Result<> CowMap::write_page(uint64_t index) {
  Group& from = *groups_[index];
  char page[k_cow_page];
  std::memcpy(page_states(page), from.states, k_cow_states);
  seal_page(page, header_.id, index, from.sequence + 1);
  return store_->write(layout_.slot_at(index, from.slot ^ 1U), page, sizeof page);
}

Result<> CowMap::commit_now() {
  TRY(store_->sync());
  if (dirty_.empty()) return {};
  for (const uint64_t index : dirty_) TRY(write_page(index));
  TRY(store_->sync());
  for (const uint64_t index : dirty_) {
    Group& group = *groups_[index];
    group.dirty = false;
    group.slot ^= 1U;
    ++group.sequence;
  }
  dirty_.clear();
  return {};
}

Result<> CowMap::rebase(const BaseIdentity& base) {
  header_.base = base;
  header_.base_limit = std::min(header_.base_limit, base.size);
  return write_header();
}

Result<> CowMap::seal(int copy) const {
  const auto put = [&](uint64_t at, const char* bytes, size_t count) -> Result<> {
    const ssize_t n = pwrite(copy, bytes, count, static_cast<off_t>(at));
    if (n != static_cast<ssize_t>(count))
      return fail_errno("cannot write the copy of an overlay", n < 0 ? errno : ENOSPC);
    return {};
  };
  for (const uint64_t index : dirty_) {
    const Group& from = *groups_[index];
    char page[k_cow_page];
    std::memcpy(page_states(page), from.states, k_cow_states);
    seal_page(page, header_.id, index, from.sequence + 1);
    TRY(put(layout_.slot_at(index, from.slot ^ 1U), page, sizeof page));
  }
  CowHeader closed = header_;
  closed.closed = true;
  ++closed.sequence;
  char sector[k_cow_header_sector];
  encode_header(closed, sector);
  return put(closed.sequence % 2 * k_cow_page, sector, sizeof sector);
}

Result<> CowMap::resize(uint64_t size) {
  TRY(commit_now());
  const uint64_t old = header_.size;
  // Growing: the room first, then the word that it is there. Shrinking: the other way round. What
  // was cut off never shows again, neither ours nor the base's.
  if (size > old) TRY(store_->set_length(layout_.file_length(size)));
  header_.size = size;
  header_.base_limit = std::min(header_.base_limit, std::min(old, size));
  TRY(write_header());
  if (size < old) TRY(store_->set_length(layout_.file_length(size)));
  for (uint64_t i = layout_.groups(size); i < groups_.size(); ++i)
    if (groups_[i]) count(*groups_[i], -1);
  groups_.resize(layout_.groups(size));
  if (groups_.back()) count(*groups_.back(), -1);
  const bool changed = mask_tail();
  if (groups_.back()) count(*groups_.back(), 1);
  return changed ? commit_now() : Result<>{};
}

}  // namespace pv::blk
