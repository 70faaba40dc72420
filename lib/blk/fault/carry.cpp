// SPDX-License-Identifier: MIT
// The I/O that faults ask for: steps done for a request or instead of it, writes that land late,
// and repairs.
#include <cstring>

#include "base/json.hpp"
#include "blk/fault/layer.hpp"
#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_repair_piece = 1 << 20;

}  // namespace

// The steps one after another, then the request itself where it is still to be carried out. A disk
// that answers at once is not called from within its own answer: a torn write may have thousands.
void FaultLayer::next_step(Flight& flight) {
  while (flight.step < flight.outcome.steps.size()) {
    prepare_step(flight);
    flight.stepping = true;
    flight.step_answered = false;
    lower().submit(flight.child);
    flight.stepping = false;
    if (!flight.step_answered) return;
    if (!step_done(flight)) return;
  }
  if (flight.outcome.whole) return forward(flight);
  finish(flight, flight.outcome.status);
}

void FaultLayer::prepare_step(Flight& flight) {
  const Step& step = flight.outcome.steps[flight.step];
  make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& answered = *static_cast<Flight*>(child.owner);
    answered.step_answered = true;
    answered.step_error = error;
    if (answered.stepping) return;
    FaultLayer* layer = answered.layer;
    if (layer->step_done(answered)) layer->next_step(answered);
  });
  Request& child = flight.child;
  child.op = step.op;
  child.offset = step.offset;
  child.length = step.length;
  child.flags = step.op == Op::read ? 0 : child.flags & ~flight.outcome.drop_flags & k_fua;
  child.extents = nullptr;
  child.injected = nullptr;
  child.loan = nullptr;
  child.wire = nullptr;
  flight.pieces.clear();
  if (step.own)
    flight.pieces.push_back({step.own.get(), step.length});
  else if (step.op == Op::read || step.op == Op::write)
    each_segment(*flight.parent, step.from, step.length, [&](char* data, size_t n) {
      flight.pieces.push_back({data, n});
    });
  child.data = flight.pieces.data();
  child.segments = static_cast<int>(flight.pieces.size());
}

// False when the step has failed, and the request with it.
bool FaultLayer::step_done(Flight& flight) {
  if (flight.step_error != 0 && flight.outcome.steps[flight.step].optional) {
    ++flight.step;
    return true;
  }
  if (flight.step_error != 0) {
    if (flight.parent->wire != nullptr) flight.parent->wire->good = 0;
    finish(flight, flight.step_error);
    return false;
  }
  const Step& step = flight.outcome.steps[flight.step++];
  if (changes_data(step.op)) changed(step.op, step.offset, step.length);
  if (step.then) step.then();
  return true;
}

// A change of this range has reached the disk below.
void FaultLayer::changed(Op op, uint64_t offset, uint64_t length) {
  truth_.forget(offset, length);
  if (op == Op::discard) return;
  for (Rule* rule : rules_.healers()) rule->rewritten(offset, length);
}

// Puts a read of what is there now in front of a change, for the rules that want to keep it.
void FaultLayer::keep_old_first(Flight& flight) {
  const Request& request = *flight.parent;
  std::vector<const Action*> keepers;
  for (const Rule* rule : rules_.keepers()) {
    const bool meant =
        !rule->match().ranged || rule->match().ranges.touches(request.offset, request.length);
    if (meant && rule->action().wants_old(request.offset, request.length))
      keepers.push_back(&rule->action());
  }
  if (keepers.empty()) return;
  const uint64_t piece = std::min<uint64_t>(request.length, k_max_kept);
  Step step = read_aside(request.offset, piece);
  step.optional = true;
  step.then = [this, keepers, offset = step.offset, data = step.own, piece] {
    for (const Rule* rule : rules_.keepers())
      if (std::find(keepers.begin(), keepers.end(), &rule->action()) != keepers.end())
        rule->action().keep_old(offset, data.get(), piece);
  };
  flight.outcome.steps.insert(flight.outcome.steps.begin(), std::move(step));
}

void FaultLayer::write_later(uint64_t after_ns, uint64_t rule, const Request& request) {
  std::shared_ptr<char[]> data(new char[request.length]);
  gather(request, 0, data.get(), request.length);
  Late& late = new_late(rule, request.offset, request.length, std::move(data));
  late.before.reset(new char[request.length]);
  late.due_ns = now_ns() + after_ns;
  late.timer = env_.timers.after(after_ns, [this, &late] { land(late); });
}

FaultLayer::Late& FaultLayer::new_late(uint64_t rule, uint64_t offset, uint64_t length,
                                       std::shared_ptr<char[]> data) {
  late_.push_back(std::make_unique<Late>());
  Late& late = *late_.back();
  late.layer = this;
  late.rule = rule;
  late.data = std::move(data);
  late.request.offset = offset;
  late.request.length = length;
  late.request.flags = k_internal;
  late.request.data = &late.piece;
  late.request.segments = 1;
  late.request.owner = &late;
  return late;
}

// What is there now is read first: where it is newer than what lands, that is damage.
void FaultLayer::land(Late& late) {
  if (still_) {
    late.timer = env_.timers.after(k_ns_per_ms, [this, &late] { land(late); });
    return;
  }
  if (std::exchange(late.landing, true)) return;
  env_.timers.cancel(late.timer);
  late.request.op = Op::read;
  late.piece = {late.before.get(), late.request.length};
  late.request.done = [](Request& request, int error) {
    auto& read = *static_cast<Late*>(request.owner);
    if (error != 0) read.before.reset();
    read.layer->write_late(read);
  };
  lower().submit(late.request);
}

void FaultLayer::write_late(Late& late) {
  late.request.op = Op::write;
  late.piece = {late.data.get(), late.request.length};
  late.request.done = [](Request& request, int error) {
    auto& written = *static_cast<Late*>(request.owner);
    written.layer->landed(written, error);
  };
  lower().submit(late.request);
}

void FaultLayer::landed(Late& late, int error) {
  if (late.repairs && error != 0)
    truth_.remember(late.rule, late.request.offset, late.data.get(), late.request.length);
  else if (!late.repairs && error == 0)
    note_damage(late);
  const auto same = [&](const std::unique_ptr<Late>& owned) { return owned.get() == &late; };
  const bool repair = late.repairs;
  late_.erase(std::find_if(late_.begin(), late_.end(), same));
  if (repair && --repairs_ == 0)
    for (Request* change : std::exchange(queued_, {})) submit(*change);
  if (!late_.empty()) return;
  for (Request* flush : std::exchange(settling_, {})) lower().submit(*flush);
}

// Sector by sector: what has landed was wanted there, or has buried something newer.
void FaultLayer::note_damage(const Late& late) {
  const uint32_t sector = geometry().sector_size;
  for (uint64_t at = 0; at < late.request.length; at += sector) {
    const uint64_t offset = late.request.offset + at;
    const char* landed = late.data.get() + at;
    const char* wanted = truth_.at(offset);
    if (wanted == nullptr && late.before) wanted = late.before.get() + at;
    if (wanted == nullptr) continue;
    if (std::memcmp(wanted, landed, sector) == 0)
      truth_.forget(offset, sector);
    else
      truth_.remember(late.rule, offset, std::string(wanted, sector).data(), sector);
  }
}

// An internal flush: nothing that this layer still has to write may be left out.
void FaultLayer::settle(Request& flush) {
  settling_.push_back(&flush);
  std::vector<Late*> landing;
  for (const auto& late : late_)
    if (!late->landing) landing.push_back(late.get());
  for (Late* late : landing) land(*late);
}

// What has not landed yet of a rule (0: of all) never will.
void FaultLayer::lose_late(uint64_t rule) {
  const auto lost = [&](const std::unique_ptr<Late>& late) {
    if (late->landing || (rule != 0 && late->rule != rule)) return false;
    env_.timers.cancel(late->timer);
    return true;
  };
  late_.erase(std::remove_if(late_.begin(), late_.end(), lost), late_.end());
}

// Writes what should be there. Changes wait meanwhile: they are younger.
uint64_t FaultLayer::repair(uint64_t rule) {
  lose_late(rule);
  uint64_t bytes = 0;
  std::vector<Late*> repairs;
  truth_.take(rule, k_repair_piece,
              [&](uint64_t offset, std::shared_ptr<char[]> data, uint64_t length) {
                Late& late = new_late(rule, offset, length, std::move(data));
                late.repairs = late.landing = true;
                repairs.push_back(&late);
                bytes += length;
              });
  repairs_ += repairs.size();
  for (Late* late : repairs) write_late(*late);
  return bytes;
}

}  // namespace pv::blk
