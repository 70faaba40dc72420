// SPDX-License-Identifier: MIT
// From a head to its answer. (Part of Queue.)
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "blk/fault/wire_kinds.hpp"
#include "blk/mirror/borrowed.hpp"
#include "front/vhost/queue.hpp"

namespace pv::vhost {
namespace {

constexpr uint8_t k_no_status = 0x77;  // not among the device's

uint8_t status_of(int error) {
  if (error == 0) return k_ok;
  return error == EOPNOTSUPP ? k_unsupp : k_ioerr;
}

// In bytes; false when that is beyond any disk.
bool offset_of(uint64_t sector, uint64_t& offset) {
  return !__builtin_mul_overflow(sector, k_sector, &offset);
}

bool copy_loan(const char* from, const std::vector<iovec>& to) {
  for (const iovec& piece : to) {
    if (!blk::copy_borrowed(static_cast<char*>(piece.iov_base), from, piece.iov_len)) return false;
    from += piece.iov_len;
  }
  return true;
}

}  // namespace

void Queue::begin(uint16_t head) {
  Job& job = *jobs_.take();
  job.queue = this;
  job.head = head;
  job.memory = session_.memory;
  job.error = 0;
  job.to_settle = false;
  job.loan = {};
  job.wire = {};
  inflight_.begun(head);
  read_chain(ring_, *job.memory, head, session_.has(k_f_indirect), job.chain);
  const Verdict verdict = read_request(job.chain, *job.memory, job.blk);
  if (verdict == Verdict::run) return carry_out(job);
  if (verdict == Verdict::io_error) session_.ground.counters.malformed();
  answer(job, verdict == Verdict::io_error ? k_ioerr : k_unsupp, 1);
}

void Queue::carry_out(Job& job) {
  switch (job.blk.type) {
    case BlkType::in:
      return submit(job, blk::Op::read, job.blk.length);
    case BlkType::out:
      return submit(job, blk::Op::write, job.blk.length);
    case BlkType::flush:
      return submit(job, blk::Op::flush, 0);
    case BlkType::get_id:
      return identify(job);
    case BlkType::discard:
      return submit_parts(job, blk::Op::discard);
    case BlkType::write_zeroes:
      return submit_parts(job, blk::Op::zero);
  }
}

// The serial, filled up with zeroes; one of full length has no terminator.
void Queue::identify(Job& job) {
  char id[k_id_bytes] = {};
  const std::string& serial = session_.ground.identity.serial;
  std::memcpy(id, serial.data(), std::min(serial.size(), sizeof id));
  const char* from = id;
  for (const iovec& piece : job.blk.data) {
    std::memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
  answer(job, k_ok, k_id_bytes + 1);
}

void Queue::prepare(blk::Request& request, Job& job) const {
  request = blk::Request{};
  request.front = blk::Front::vhost;
  request.connection = session_.number;
  request.host = session_.ground.identity.host;
  request.wire = &job.wire;
  request.owner = &job;
}

// What a write needs to be stable when it is answered, where it has to be.
uint32_t Queue::stable_flags(Job& job) const {
  if (!session_.writes_through()) return 0;
  if (session_.ground.disk.geometry().fua) return blk::k_fua;
  job.to_settle = true;  // a disk that ignores FUA is flushed instead
  return 0;
}

void Queue::settle(Job& job) {
  prepare(job.settling, job);
  job.settling.op = blk::Op::flush;
  job.settling.done = [](blk::Request& done, int error) {
    auto& settled = *static_cast<Job*>(done.owner);
    settled.queue->finished(settled, error);
  };
  session_.ground.disk.submit(job.settling);
}

void Queue::submit(Job& job, blk::Op op, uint64_t length) {
  prepare(job.request, job);
  blk::Request& request = job.request;
  request.op = op;
  request.length = length;
  request.done = [](blk::Request& done, int error) {
    auto& finished_job = *static_cast<Job*>(done.owner);
    finished_job.queue->finished(finished_job, error);
  };
  session_.ground.counters.started();
  if (op != blk::Op::flush) {
    if (!offset_of(job.blk.sector, request.offset)) return finished(job, ERANGE);
    request.data = job.blk.data.data();
    request.segments = static_cast<int>(job.blk.data.size());
    request.shared = true;
  }
  if (op == blk::Op::write) request.flags = stable_flags(job);
  if (op == blk::Op::read && session_.ground.loans) request.loan = &job.loan;
  session_.ground.disk.submit(request);
}

// All ranges are looked at before the first is touched: a request that fails, fails whole.
void Queue::submit_parts(Job& job, blk::Op op) {
  const auto& ranges = job.blk.ranges;
  const blk::Geometry& geometry = session_.ground.disk.geometry();
  job.request.op = op;
  job.request.length = 0;
  session_.ground.counters.started();
  job.parts.resize(ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    blk::Request& part = job.parts[i];
    prepare(part, job);
    part.op = op;
    part.length = uint64_t{ranges[i].sectors} * k_sector;
    if (op == blk::Op::zero && (ranges[i].flags & k_range_unmap) == 0) part.flags = blk::k_no_unmap;
    if (op == blk::Op::zero) part.flags |= stable_flags(job);
    if (!offset_of(ranges[i].sector, part.offset) || part.length > geometry.size ||
        part.offset > geometry.size - part.length)
      return finished(job, ERANGE);
    job.request.length += part.length;
    part.done = [](blk::Request& done, int error) {
      auto& owner = *static_cast<Job*>(done.owner);
      if (error != 0 && owner.error == 0) owner.error = error;
      if (--owner.parts_left == 0) owner.queue->finished(owner, owner.error);
    };
  }
  if (ranges.empty()) return finished(job, 0);
  job.parts_left = ranges.size();
  // The last one to come back may be the one that is being submitted, and then the job is gone.
  for (size_t i = 0, count = ranges.size(); i < count; ++i)
    session_.ground.disk.submit(job.parts[i]);
}

// False when the bytes are gone from where they lay: the request is on its way again.
bool Queue::settle_loan(Job& job) {
  if (job.loan.kind != blk::Loan::memory) return true;
  if (copy_loan(job.loan.at, job.blk.data)) return true;
  session_.ground.loans = false;
  job.loan = {};
  job.request.loan = nullptr;
  session_.ground.disk.submit(job.request);
  return false;
}

void Queue::finished(Job& job, int error) {
  const blk::Op op = job.request.op;
  if (!session_.gone && op == blk::Op::read && error == 0 && !settle_loan(job)) return;
  if (std::exchange(job.to_settle, false) && error == 0) return settle(job);
  session_.ground.counters.completed(op, job.request.length, error);
  if (!session_.gone && job.wire.kind == blk::WireFault::hang_up) {
    // Unanswered, so that the next connection finds it under way.
    const auto hang_up = session_.hang_up;
    release(job);
    publish();  // what was answered before it
    return hang_up();
  }
  const bool brings_data = op == blk::Op::read && error == 0;
  answer(job, status_of(error), brings_data ? static_cast<uint32_t>(job.request.length) + 1 : 1);
}

void Queue::answer(Job& job, uint8_t status, uint32_t used) {
  job.status = status;
  job.used = used;
  if (session_.gone) return release(job);
  if (session_.ground.frozen) return held_.push_back(&job);
  put(job);
}

void Queue::thaw() {
  for (Job* job : std::exchange(held_, {})) put(*job);
  publish_later();
}

// The status is written before the element is there to be seen; a chain without a place for it is
// given back with nothing written.
void Queue::put(Job& job) {
  if (job.wire.kind == blk::WireFault::violate) violate(job);
  if (job.blk.status != nullptr)
    __atomic_store_n(job.blk.status, job.status, __ATOMIC_RELEASE);
  else
    job.used = 0;
  note_written(job);
  ring_.put(job.head, job.used);
  inflight_.put(job.head);
  release(job);
  publish_later();
}

// What a rule wants broken of an answer; those that are about another protocol's words are errors.
void Queue::violate(Job& job) {
  switch (static_cast<blk::Violation>(job.wire.how)) {
    case blk::Violation::error_code:
      job.status = k_no_status;
      return;
    case blk::Violation::cookie:
      ring_.put(size_ + static_cast<uint32_t>(job.wire.chance % size_), job.used);
      return;
    case blk::Violation::twice:
      ring_.put(job.head, job.used);
      return;
    default:
      job.status = k_ioerr;
      job.used = 1;
  }
}

void Queue::note_written(const Job& job) {
  DirtyLog* log = session_.dirty();
  if (log == nullptr) return;
  // A read that failed may have written some of it.
  const bool brings_data = job.blk.type == BlkType::in || job.blk.type == BlkType::get_id;
  if (brings_data)
    for (const iovec& piece : job.blk.data)
      log->mark(job.memory->guest_address(piece.iov_base), piece.iov_len);
  if (job.blk.status != nullptr) log->mark(job.memory->guest_address(job.blk.status), 1);
}

void Queue::release(Job& job) {
  job.memory.reset();
  jobs_.give(&job);
  if (session_.gone) session_.came_back();
}

}  // namespace pv::vhost
