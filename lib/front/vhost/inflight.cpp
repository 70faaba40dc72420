// SPDX-License-Identifier: MIT
#include "front/vhost/inflight.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "front/vhost/bus_guard.hpp"

namespace pv::vhost {
namespace {

constexpr size_t k_align = 64;
constexpr uint16_t k_layout = 1;
constexpr size_t k_inflight_max_bytes = 256 << 20;

size_t queue_bytes(uint16_t size) {
  const size_t bytes = sizeof(InflightQueue) + size * sizeof(InflightDesc);
  return (bytes + k_align - 1) / k_align * k_align;
}

// A killed server has written everything up to some store, in this order.
void in_order() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

size_t InflightMap::bytes(uint16_t queues, uint16_t queue_size) {
  return queues * queue_bytes(queue_size);
}

Result<Fd> InflightMap::make(uint16_t queues, uint16_t queue_size) {
  Fd fd(memfd_create("provium-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("cannot make a shared area", errno);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes(queues, queue_size))) < 0)
    return fail_errno("cannot make a shared area", errno);
  fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return fd;
}

Result<std::shared_ptr<InflightMap>> InflightMap::map(const InflightArea& area, const Fd& fd) {
  const auto refuse = [] {
    return fail(Code::invalid, "an area for requests in flight that is none");
  };
  struct stat file {};
  if (!fd || fstat(fd.get(), &file) != 0 || area.size > k_inflight_max_bytes ||
      area.offset > k_inflight_max_bytes)
    return refuse();
  const size_t end = area.size + area.offset;
  if (static_cast<uint64_t>(file.st_size) < end || area.offset % alignof(InflightQueue) != 0 ||
      area.queue_size == 0 || area.size < bytes(area.queues, area.queue_size))
    return refuse();
  void* at = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail_errno("cannot map the area for requests in flight", errno);
  auto* base = static_cast<char*>(at);
  return std::shared_ptr<InflightMap>(
      new InflightMap(base, end, area.offset, area, guard_against_bus_errors(base, end)));
}

InflightMap::~InflightMap() {
  end_guard(guard_);
  munmap(base_, mapped_);
}

InflightQueue* InflightMap::queue(size_t index, uint16_t size) const {
  if (index >= area_.queues || size > area_.queue_size) return nullptr;
  return reinterpret_cast<InflightQueue*>(base_ + offset_ + index * queue_bytes(area_.queue_size));
}

std::vector<uint16_t> Inflight::start(std::shared_ptr<InflightMap> map, size_t index, uint16_t size,
                                      uint16_t used_index) {
  map_ = std::move(map);
  queue_ = map_ ? map_->queue(index, size) : nullptr;
  size_ = size;
  counter_ = 0;
  batch_.clear();
  std::vector<uint16_t> heads;
  if (queue_ == nullptr) return heads;
  if (queue_->version != k_layout || queue_->desc_num != size) {
    for (uint16_t i = 0; i < size; ++i) descs()[i] = {};
    queue_->features = 0;
    queue_->desc_num = size;
    queue_->last_batch_head = 0;
    queue_->used_idx = used_index;
    in_order();
    queue_->version = k_layout;
    return heads;
  }
  recover(used_index);
  // Copied, since the front end can write there while we sort.
  std::vector<std::pair<uint64_t, uint16_t>> found;
  for (uint16_t i = 0; i < size; ++i)
    if (descs()[i].inflight != 0) found.emplace_back(descs()[i].counter, i);
  std::sort(found.begin(), found.end());
  for (const auto& [counter, head] : found) heads.push_back(head);
  if (!found.empty()) counter_ = found.back().first;
  return heads;
}

// The guest has seen the last batch, and we died before we could take note of that.
void Inflight::recover(uint16_t used_index) {
  auto left = static_cast<uint16_t>(used_index - queue_->used_idx);
  uint16_t head = queue_->last_batch_head;
  for (; left != 0 && left <= size_ && head < size_; --left) {
    descs()[head].inflight = 0;
    head = __atomic_load_n(&descs()[head].next, __ATOMIC_RELAXED);
  }
  in_order();
  queue_->used_idx = used_index;
}

void Inflight::begun(uint16_t head) {
  if (queue_ == nullptr || head >= size_) return;
  descs()[head].counter = ++counter_;
  in_order();
  descs()[head].inflight = 1;
}

void Inflight::put(uint16_t head) {
  if (queue_ == nullptr || head >= size_) return;
  descs()[head].next = queue_->last_batch_head;
  in_order();
  queue_->last_batch_head = head;
  batch_.push_back(head);
}

void Inflight::published(uint16_t used_index) {
  if (queue_ == nullptr) return;
  for (const uint16_t head : batch_) descs()[head].inflight = 0;
  batch_.clear();
  in_order();
  queue_->used_idx = used_index;
}

}  // namespace pv::vhost
