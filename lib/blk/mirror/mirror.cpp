// SPDX-License-Identifier: MIT
// The way of a request through the mirror.
#include "blk/mirror/mirror.hpp"

#include <algorithm>
#include <cstring>

#include "base/json.hpp"
#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_mirror_kept_buffer = 256
                                          << 10;  // a larger one is given back after its request
constexpr uint64_t k_join = 16;  // equal bytes between two ranges that are told apart

bool has_range(Op op) {
  return op != Op::flush;
}

}  // namespace

Mirror::Mirror(std::unique_ptr<Disk> test, std::unique_ptr<Disk> reference, const Env& env,
               const Options& options)
    : Forward(std::move(test)),
      reference_(std::move(reference)),
      env_(env),
      watch_(env, options.watch),
      writes_(lower().geometry().size),
      undefined_(lower().geometry().size),
      scrub_(*this, env, options.scrub_bytes_per_s) {
  changed_wall_ns_ = env_.clock.wall_ns();
  reference_file_ = reference_file();
  catch_bus_errors();
  refresh();
}

// What is true of both legs.
void Mirror::refresh() {
  const Geometry &test = lower().geometry(), &reference = reference_->geometry();
  geometry_ = test;
  geometry_.fua = test.fua && reference.fua;
  geometry_.read_only = test.read_only || reference.read_only;
  geometry_.discard_granularity = std::max(test.discard_granularity, reference.discard_granularity);
  fills_ = {};
  same_discard_ =
      test.discard == reference.discard && test.discard != DiscardBehaviour::unspecified;
  if (!same_discard_) geometry_.discard = DiscardBehaviour::unspecified;
  const bool both_ignore = same_discard_ && test.discard == DiscardBehaviour::ignored;
  if (!both_ignore)
    fills_ = {test.discard != DiscardBehaviour::zeroes,
              reference.discard != DiscardBehaviour::zeroes};
}

void Mirror::submit(Request& request) {
  Flight& flight = *flights_.take();
  flight.mirror = this;
  flight.parent = &request;
  flight.number = ++requests_;
  flight.outcome = 0;
  flight.plain = flight.filling = flight.left_open = false;
  if (!scrub_.is_mine(request)) scrub_.busy();
  if (!has_range(request.op)) return start(flight);
  flight.place.begin = request.offset;
  flight.place.end = request.offset + request.length;
  flight.place.alone = changes_data(request.op);
  flight.place.owner = &flight;
  flight.place.go = [](RangeLock::Place& place) {
    auto& passing = *static_cast<Flight*>(place.owner);
    passing.mirror->start(passing);
  };
  lock_.enter(flight.place);
}

Writes::Write::Content Mirror::content_after(Op op) const {
  if (op == Op::write) return Writes::Write::hashed;
  if (op == Op::zero) return Writes::Write::zeroes;
  const bool ignored = same_discard_ && geometry_.discard == DiscardBehaviour::ignored;
  return ignored ? Writes::Write::unknown : Writes::Write::zeroes;
}

void Mirror::start(Flight& flight) {
  const Request& request = *flight.parent;
  if (changes_data(request.op))
    flight.serial =
        writes_.begin(request, flight.number, watch_.now_ns(), content_after(request.op));
  if (request.op == Op::flush || changes_data(request.op)) ++changing_;
  flight.pending = 2;
  submit_to(flight, Writes::test);
  submit_to(flight, Writes::reference);
}

void Mirror::submit_to(Flight& flight, Side side) {
  Leg& leg = flight.legs[side];
  make_child(leg.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& done = *static_cast<Flight*>(child.owner);
    done.legs[&child == &done.legs[Writes::test].child ? Writes::test : Writes::reference].error =
        error;
    if (--done.pending == 0) done.mirror->both_done(done);
  });
  // What both lend is compared where it lies. A pipe shows nobody its bytes, so none is offered.
  const bool takes_loan = side == Writes::reference || leg.child.loan != nullptr;
  leg.loan = Loan{};
  leg.child.loan = leg.child.op == Op::read && takes_loan && !flight.plain ? &leg.loan : nullptr;
  leg.child.wire = nullptr;  // what goes out is decided when both have ended
  if (!leg.injected.rule.empty()) leg.injected = Injected{};
  leg.child.injected = &leg.injected;
  if (leg.child.extents != nullptr) {
    leg.extents.clear();
    leg.child.extents = &leg.extents;
  }
  if (leg.child.op == Op::read && side == Writes::reference) {
    if (flight.room < leg.child.length) {
      flight.buffer.reset(new char[leg.child.length]);
      flight.room = leg.child.length;
    }
    flight.piece = {flight.buffer.get(), leg.child.length};
    leg.child.data = &flight.piece;
    leg.child.segments = 1;
  }
  (side == Writes::test ? lower() : *reference_).submit(leg.child);
}

// A leg that leaves open what a discard leaves behind, or ignores it, is given zeroes besides: so
// both hold the same there, which is compared from then on, at the next start as well.
bool Mirror::fill_discarded(Flight& flight) {
  if (flight.parent->op != Op::discard) return false;
  if (flight.filling) {
    for (Leg& leg : flight.legs) {
      flight.left_open = flight.left_open || leg.error != 0;
      leg.error = 0;  // the discard itself was well
    }
    return false;
  }
  flight.pending = 0;
  for (const Side side : {Writes::test, Writes::reference}) {
    if (flight.legs[side].error != 0) return false;
    flight.pending += fills_[side] ? 1 : 0;
  }
  flight.filling = flight.pending != 0;
  if (!flight.filling) return false;
  const std::array<bool, 2> fills = fills_;
  for (const Side side : {Writes::test, Writes::reference}) {
    if (!fills[side]) continue;
    Request& child = flight.legs[side].child;
    child.op = Op::zero;
    child.flags = (flight.parent->flags & k_fua) | k_internal;
    (side == Writes::test ? lower() : *reference_).submit(child);
  }
  return true;
}

void Mirror::both_done(Flight& flight) {
  if (fill_discarded(flight)) return;
  const int test = flight.legs[Writes::test].error;
  const int reference = flight.legs[Writes::reference].error;
  if (flight.parent->op == Op::flush || changes_data(flight.parent->op)) {
    --changing_;
    changed_wall_ns_ = env_.clock.wall_ns();
  }
  if (changes_data(flight.parent->op)) changed(flight);
  if (test != reference) {
    flight.outcome = test == 0 ? 0 : reference;
    if (flight.outcome == 0 && !give_one(flight, test == 0 ? Writes::test : Writes::reference))
      return read_again(flight);
    return record_status(flight);
  }
  if (test != 0) return finish(flight, test);
  if (flight.parent->op == Op::map) give_extents(flight);
  if (flight.parent->op == Op::read) return compare(flight);
  finish(flight, 0);
}

void Mirror::changed(Flight& flight) {
  const Request& request = *flight.parent;
  for (const Side side : {Writes::test, Writes::reference})
    writes_.end(flight.serial, side, flight.legs[side].error, flight.legs[side].injected.rule);
  scrub_.forget(request.offset, request.offset + request.length);
  // A change that fails on both legs may have come to something else on each.
  const bool failed =
      flight.legs[Writes::test].error != 0 && flight.legs[Writes::reference].error != 0;
  const bool open = request.op == Op::discard &&
                    (fills_[Writes::test] || fills_[Writes::reference]) &&
                    (!flight.filling || flight.left_open);
  const bool kept =
      request.op == Op::discard && same_discard_ && geometry_.discard == DiscardBehaviour::ignored;
  if (failed || open || !kept)
    undefined_.set(request.offset, request.offset + request.length, failed || open);
}

Compared Mirror::compare_bytes(const Flight& flight) const {
  const Request& request = *flight.parent;
  const Loan &lent = flight.legs[Writes::test].loan, &other = flight.legs[Writes::reference].loan;
  const char* reference = other.kind == Loan::memory ? other.at : flight.buffer.get();
  if (lent.kind == Loan::memory) return compare_borrowed(lent.at, reference, request.length);
  for (int i = 0; i < request.segments; ++i) {
    const iovec& segment = request.data[i];
    const Compared compared =
        compare_borrowed(static_cast<const char*>(segment.iov_base), reference, segment.iov_len);
    if (compared != Compared::equal) return compared;
    reference += segment.iov_len;
  }
  return Compared::equal;
}

void Mirror::compare(Flight& flight) {
  compared_bytes_ += flight.parent->length;
  switch (compare_bytes(flight)) {
    case Compared::equal:
      learn(flight);
      return give_lent(flight);
    case Compared::different:
      return compare_closely(flight);
    case Compared::gone:
      return read_again(flight);
  }
}

// What both have: it may be there still when a write is lost.
void Mirror::learn(const Flight& flight) {
  constexpr uint64_t k_at_once = 8 * k_unit;
  const Request& request = *flight.parent;
  const Loan& other = flight.legs[Writes::reference].loan;
  if (other.kind != Loan::memory)
    return writes_.saw(request.offset, flight.buffer.get(), request.length);
  std::array<char, k_at_once> bytes;
  for (uint64_t at = 0; at < request.length; at += k_at_once) {
    const uint64_t n = std::min(k_at_once, request.length - at);
    if (!copy_borrowed(bytes.data(), other.at + at, n)) return;
    writes_.saw(request.offset + at, bytes.data(), n);
  }
}

// A file was cut while its bytes were looked at: the plain way tells what is there now.
void Mirror::read_again(Flight& flight) {
  flight.plain = true;
  start(flight);
}

// The guest goes on with the leg that has succeeded; where none has, it hears what the reference
// says.
bool Mirror::give_one(Flight& flight, Side side) {
  const Request& request = *flight.parent;
  if (request.op == Op::map) {
    const auto& extents = flight.legs[side].extents;
    request.extents->insert(request.extents->end(), extents.begin(), extents.end());
  }
  if (request.op != Op::read) return true;
  std::string bytes;
  if (!collect(flight, side, bytes)) return false;
  scatter(request, 0, bytes.data(), request.length);
  return true;
}

void Mirror::give_lent(Flight& flight) {
  const Loan& lent = flight.legs[Writes::test].loan;
  if (lent.kind == Loan::memory) {
    flight.parent->loan->kind = Loan::memory;
    flight.parent->loan->at = lent.at;
  }
  finish(flight, 0);
}

// What a leg has read, in one piece; false when it is gone.
bool Mirror::collect(const Flight& flight, Side side, std::string& bytes) const {
  const Request& request = *flight.parent;
  const Loan& lent = flight.legs[side].loan;
  bytes.resize(request.length);
  if (lent.kind == Loan::memory) return copy_borrowed(bytes.data(), lent.at, request.length);
  if (side == Writes::test)
    gather(request, 0, bytes.data(), request.length);
  else
    std::memcpy(bytes.data(), flight.buffer.get(), request.length);
  return true;
}

// They differ somewhere. That means nothing where nobody has promised anything.
void Mirror::compare_closely(Flight& flight) {
  const Request& request = *flight.parent;
  std::string test, reference;
  if (!collect(flight, Writes::test, test) || !collect(flight, Writes::reference, reference))
    return read_again(flight);
  // Whatever follows, the guest sees one of the two from now on, and always the same.
  scatter(request, 0, reference.data(), request.length);
  if (!undefined_.empty())
    for (uint64_t at = 0; at < request.length; at += UndefinedMap::k_sector)
      if (undefined_.get(request.offset + at))
        std::memcpy(&test[at], &reference[at], UndefinedMap::k_sector);
  const auto spans =
      differences(test.data(), reference.data(), request.offset, request.length, k_join);
  if (spans.empty()) return finish(flight, 0);
  if (!is_news(flight, test, reference, spans) && scrub_.is_mine(request)) return finish(flight, 0);
  record_mismatch(flight, test, reference, spans);
}

// A scrub comes by again and again.
bool Mirror::is_news(const Flight& flight, const std::string& test, const std::string& reference,
                     const std::vector<ByteSpan>& spans) {
  bool news = false;
  const uint64_t offset = flight.parent->offset;
  for (const ByteSpan& span : spans)
    for (uint64_t at = span.offset / k_unit * k_unit; at < span.offset + span.length;
         at += k_unit) {
      const uint64_t one = hash_unit(&test[at - offset]),
                     other = hash_unit(&reference[at - offset]);
      news = scrub_.is_news(at, one * 3 + other) || news;
    }
  return news;
}

// What both say; of two holes in different places only what they share.
void Mirror::give_extents(Flight& flight) {
  const Request& request = *flight.parent;
  const auto &a = flight.legs[0].extents, &b = flight.legs[1].extents;
  size_t i = 0, j = 0, given = 0;
  uint64_t used_a = 0, used_b = 0;
  while (i < a.size() && j < b.size()) {
    const uint64_t length = std::min(a[i].length - used_a, b[j].length - used_b);
    const uint32_t flags = a[i].flags & b[j].flags;
    if (given != 0 && request.extents->back().flags == flags) {
      request.extents->back().length += length;
    } else {
      if (given != 0 && (request.flags & k_one) != 0) return;
      request.extents->push_back({length, flags});
      ++given;
    }
    used_a += length;
    used_b += length;
    if (used_a == a[i].length) ++i, used_a = 0;
    if (used_b == b[j].length) ++j, used_b = 0;
  }
}

// By the policy.
void Mirror::settle(Flight& flight, int error) {
  finish(flight, error != 0 ? error : flight.outcome);
}

void Mirror::finish(Flight& flight, int error) {
  Request* parent = flight.parent;
  if (error != 0 && parent->injected != nullptr)
    for (const Leg& leg : flight.legs)
      if (leg.error == error && !leg.injected.rule.empty()) *parent->injected = leg.injected;
  keep_or_drop_buffer(flight);
  if (has_range(parent->op)) {
    // The next one may go on before this one is answered: it has seen all of it.
    lock_.leave(flight.place);
  }
  flights_.give(&flight);
  parent->done(*parent, error);
}

void Mirror::keep_or_drop_buffer(Flight& flight) {
  if (flight.room <= k_mirror_kept_buffer) return;
  flight.buffer.reset();
  flight.room = 0;
}

Result<> Mirror::resize(uint64_t size) {
  const uint64_t before = geometry_.size;
  TRY(lower().resize(size));
  if (auto other = reference_->resize(size); !other) {
    static_cast<void>(lower().resize(before));
    return other;
  }
  undefined_ = undefined_.resized(size);
  refresh();
  return {};
}

}  // namespace pv::blk
