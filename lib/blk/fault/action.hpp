// SPDX-License-Identifier: MIT
// What a fault kind is: an Action, made from the `do` object of a rule. An action looks at one case
// (a request and a rule that fires) and says what is to happen; the fault layer does it. Actions
// hold no requests and start no I/O, so most kinds are a page.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"
#include "blk/fault/chance.hpp"
#include "blk/fault/ranges.hpp"

namespace pv::blk {

class Action;
class Truth;

// Marks are looked at first, all that match; then delays, all that match; then the first outcome
// that matches decides.
enum class Stage : uint8_t { mark, delay, outcome };

constexpr uint32_t k_every_op = (1U << k_op_count) - 1;

// What an action may ask of the layer that it works in.
class Bench {
 public:
  virtual ~Bench() = default;
  virtual uint64_t now_ns() const = 0;  // since the layer was made
  virtual const Geometry& geometry() const = 0;
  virtual void mark(const std::string& name) = 0;
  // What the medium should hold where it does not.
  virtual Truth& truth() = 0;
  // What is volatile is lost as `drop`, a cache.drop for the layers below, says.
  virtual Result<json> lose_power(const json& drop) = 0;
  virtual bool waits(uint64_t ticket) const = 0;
  // What this rule holds goes on, in this order, when the rules have been looked at.
  virtual void wake(uint64_t rule, const std::vector<uint64_t>& tickets) = 0;
  // Carries a write out `after_ns` from now, or at an orderly end; nobody waits for it.
  virtual void write_later(uint64_t after_ns, uint64_t rule, const Request& request) = 0;
};

// One request that a rule fires at.
struct Case {
  const Request& request;
  Bench& bench;
  uint64_t rule;           // its serial
  const RangeSet& ranges;  // of the rule; empty: every address
  uint64_t match;          // its number, from 1
  Chance chance;           // of this match
  uint64_t ticket;         // names the request while it waits
};

// How long a request waits before it goes on.
struct Wait {
  uint64_t ns = 0;
  bool held = false;  // until woken or released; `ns` is then the longest, 0 for ever
};

// I/O below that is done for a request, or instead of it.
struct Step {
  Op op = Op::write;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t from = 0;            // where in the request's data
  std::shared_ptr<char[]> own;  // instead of the request's data
  std::function<void()> then;   // when it has succeeded
  bool optional = false;        // when it fails, the request goes on without it
};

// A read of a place into memory of its own.
inline Step read_aside(uint64_t offset, uint64_t length) {
  Step step;
  step.op = Op::read;
  step.offset = offset;
  step.length = length;
  step.own.reset(new char[length]);
  return step;
}

// What becomes of a request. As it is made: carried out as it stands.
struct Outcome {
  bool whole = true;        // carried out as it stands; before that `steps` are, if any
  uint32_t drop_flags = 0;  // flags that are taken off it
  std::vector<Step> steps;  // one after another; the first that fails ends the request
  int status = 0;           // what is answered when all went well
  WireFault wire;
  std::string note;  // members of the journal's line, as in "\"target_bytes\":512"

  // Nothing is carried out but the steps.
  void answer(int error) {
    whole = false;
    status = error;
  }
};

class Action {
 public:
  virtual ~Action() = default;
  virtual Stage stage() const { return Stage::outcome; }
  // The canonical `do` object.
  virtual json describe() const = 0;

  // Operations that this kind can be applied to, and those meant when a rule names none.
  virtual uint32_t ops() const { return k_every_op; }
  virtual uint32_t default_ops() const { return ops(); }
  virtual bool needs_ranges() const { return false; }
  // Which front ends cannot carry it: nullptr, or why. Asked for a rule that is bound to one.
  virtual const char* unsupported_on(Front) const { return nullptr; }

  // Whether a request that matches is one that this kind can do something to.
  virtual bool concerns(const Case&) const { return true; }

  virtual void note_mark(const Case&) const {}         // Stage::mark
  virtual Wait wait(const Case&) const { return {}; }  // Stage::delay
  virtual void decide(const Case&, Outcome&) const {}  // Stage::outcome
  virtual bool after_io() const { return false; }      // its status has a sense when I/O is done

  // It is about new connections, and does nothing to requests: its ops() are none.
  virtual bool greets() const { return false; }

  // From its first firing on, the rule fires at everything: a device that is gone stays gone.
  virtual bool latches() const { return false; }
  // Sees every request at its arrival.
  virtual bool watches() const { return false; }
  virtual void saw(const Request&, uint64_t rule, Bench&) const { static_cast<void>(rule); }
  // Wants to know what a range held before it is changed for the first time.
  virtual bool keeps_old() const { return false; }
  virtual bool wants_old(uint64_t, uint64_t) const { return false; }
  virtual void keep_old(uint64_t, const char*, uint64_t) const {}

  // For snapshots: what it has come to know beyond describe(), and back; false for what it cannot
  // have said. What keep_old() was given goes piece by piece.
  virtual json remembered() const { return {}; }
  virtual bool recall(const json& remembered) const { return remembered.is_null(); }
  using Piece = std::function<Result<>(uint64_t offset, const char* data, uint64_t length)>;
  virtual Result<> each_kept(const Piece&) const { return {}; }
};

}  // namespace pv::blk
