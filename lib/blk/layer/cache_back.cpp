// SPDX-License-Identifier: MIT
#include "blk/layer/cache.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_jobs = 16;  // write-backs in flight
constexpr size_t k_max_run = 64;   // blocks in one of them

}  // namespace

void Cache::flush(Request& request) {
  if (store_.used() == 0) return lower().submit(request);
  store_.retry_failed();
  Flight* flight = follow(request);
  flight->age = store_.age();
  flushes_.push_back(flight);
  turn();
}

// Everything that can go on goes on. Completions that come while it runs make it run again.
void Cache::turn() {
  again_ = true;
  if (std::exchange(turning_, true)) return;
  while (std::exchange(again_, false)) {
    write_back();
    serve_waiting();
    finish_flushes();
  }
  turning_ = false;
}

void Cache::write_back() {
  while (!off_ && jobs_.in_use() < k_max_jobs) {
    CacheBlock* block = store_.oldest(CacheBlock::dirty);
    if (block == nullptr) room_goal_ = k_no_goal;
    if (block == nullptr || !may_leave(*block)) return;
    const bool flushed = !flushes_.empty() && block->age <= flushes_.back()->age;
    if (store_.used() - store_.busy_count() <= room_goal_) room_goal_ = k_no_goal;
    if (!flushed && room_goal_ == k_no_goal) return;
    start_job(*block);
  }
}

bool Cache::may_leave(const CacheBlock& block) const {
  return block.waits_for == nullptr && !under_way_through(block.index);
}

void Cache::start_job(CacheBlock& first) {
  Job* job = jobs_.take();
  job->layer = this;
  job->bit = 0;
  job->blocks.assign(1, &first);
  store_.set_busy(first);
  // What was written in sequence goes in one piece; the order stays.
  while (first.mask == 0xff && job->blocks.size() < k_max_run) {
    CacheBlock* next = store_.oldest(CacheBlock::dirty);
    if (next == nullptr || next->index != job->blocks.back()->index + 1 || next->mask != 0xff ||
        next->zero != first.zero || next->no_unmap != first.no_unmap || !may_leave(*next))
      break;
    job->blocks.push_back(next);
    store_.set_busy(*next);
  }
  ++write_backs_;
  send(*job);
}

void Cache::send(Job& job) {
  const CacheBlock& first = *job.blocks.front();
  while ((first.mask >> job.bit & 1) == 0) ++job.bit;
  const int begin = job.bit;
  while (job.bit < 8 && (first.mask >> job.bit & 1) != 0) ++job.bit;
  const uint64_t unit = store_.unit();
  const uint64_t skip = static_cast<uint64_t>(begin) * unit;
  const uint64_t length = static_cast<uint64_t>(job.bit - begin) * unit;
  Request& child = job.child = Request{};
  child.op = first.zero ? Op::zero : Op::write;
  child.flags = first.zero && first.no_unmap ? k_no_unmap : 0U;
  child.offset = first.index * store_.block_size() + skip;
  child.length = length * job.blocks.size();
  child.owner = &job;
  child.done = [](Request& done, int error) {
    auto& sent = *static_cast<Job*>(done.owner);
    sent.layer->sent(sent, error);
  };
  job.pieces.clear();
  for (const CacheBlock* block : job.blocks)
    if (!first.zero) job.pieces.push_back({block->data.get() + skip, length});
  child.data = job.pieces.data();
  child.segments = static_cast<int>(job.pieces.size());
  lower().submit(child);
}

void Cache::sent(Job& job, int error) {
  const CacheBlock& first = *job.blocks.front();
  if (error == 0 && job.bit < 8 && first.mask >> job.bit != 0) return send(job);
  make_stale(first.index * store_.block_size(), job.blocks.size() * store_.block_size());
  for (CacheBlock* block : job.blocks) {
    const bool gone = block->index * store_.block_size() >= geometry().size;  // cut off meanwhile
    if (error != 0 && !gone && !off_) {
      note_error(block->age, error);
      store_.set_failed(*block);
    } else {
      store_.remove(*block);
    }
  }
  jobs_.give(&job);
  turn();
}

void Cache::note_error(uint64_t age, int error) {
  ++errors_;
  room_error_ = error;
  for (Flight* flight : flushes_)
    if (flight->age >= age && flight->error == 0) flight->error = error;
}

void Cache::serve_waiting() {
  while (!waiting_.empty()) {
    Request& request = *waiting_.front();
    const Verdict verdict = judge(request);
    if (verdict == Verdict::wait) return write_back();
    waiting_.pop();
    act(request, verdict);
    room_error_ = 0;
  }
}

void Cache::finish_flushes() {
  while (!flushes_.empty() && store_.settled(flushes_.front()->age)) {
    Flight* flight = flushes_.front();
    flushes_.erase(flushes_.begin());
    if (flight->error != 0) {
      flushed(*flight, flight->error);
      continue;
    }
    make_child(flight->child, *flight->parent, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->flushed(done, error);
    });
    lower().submit(flight->child);
  }
}

void Cache::flushed(Flight& flight, int error) {
  Request* parent = flight.parent;
  flights_.give(&flight);
  parent->done(*parent, error);
}

}  // namespace pv::blk
