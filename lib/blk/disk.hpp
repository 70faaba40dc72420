// SPDX-License-Identifier: MIT
// The one interface of the data plane. A back end is a Disk; a layer is a Disk that wraps another;
// a front end feeds requests into the outermost one. Everything about one stack happens on one
// thread, the event loop's; no layer owns a thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <sys/uio.h>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/timers.hpp"

namespace pv {
class Loop;
}

namespace pv::blk {

enum class Op : uint8_t { read, write, flush, discard, zero, map, cache };
constexpr int k_op_count = 7;

// "read", "write", …; and back (false for a name that is none).
const char* op_name(Op op);
bool op_from_name(std::string_view name, Op& op);

constexpr uint32_t op_bit(Op op) {
  return 1U << static_cast<int>(op);
}
// Operations after which a read may return something else, one bit each.
constexpr uint32_t k_changes = op_bit(Op::write) | op_bit(Op::zero) | op_bit(Op::discard);
constexpr bool changes_data(Op op) {
  return (op_bit(op) & k_changes) != 0;
}

enum RequestFlag : uint32_t {
  k_fua = 1,       // on stable storage before completion
  k_no_unmap = 2,  // zero: the range must stay allocated
  k_one = 4,       // map: the first extent is enough
  k_internal = 8,  // our own read-modify-write: no fault applies, nothing is counted
};

// Where a request came from; decides what a status can become on its wire.
enum class Front : uint8_t { host, nbd, vhost };
const char* front_name(Front front);

// What an injected fault tells the one who asked for it (host requests only).
enum class Phase : uint8_t { before, after_delay, after_io };
const char* phase_name(Phase phase);
struct Injected {
  std::string rule;
  Phase phase = Phase::before;
};

// What a fault wants of the wire besides a status. A front end that can do such things offers one
// with each request, and looks at it when the request is done. A layer that carries a request out
// in parts, or changes what was read, offers none to its child: `good` would speak of other bytes.
struct WireFault {
  enum Kind : uint8_t { none, hang_up, violate } kind = none;
  uint8_t how = 0;          // where it hangs up (HangUp), what it violates (Violation)
  bool structured = false;  // set by the front end: the client takes structured replies
  uint32_t bytes = 0;       // of the answer that go out before it hangs up; of garbage
  uint64_t good = 0;        // a read that fails: so many bytes of its data are right
  uint64_t chance = 0;      // for what has to be made up
};

enum ExtentFlag : uint32_t { k_hole = 1, k_zero = 2 };  // NBD's base:allocation bits
struct Extent {
  uint64_t length;
  uint32_t flags;
};

// A read's bytes where they already lie, for a front end that can send them from there and save the
// copy into `data`: in memory (valid as long as the disk; shows the range as it is when it is
// looked at), or as pages of the page cache, in a pipe that the front end offers. A layer that
// looks at data, or changes it, sets `loan` of its child request to null.
struct Loan {
  enum Kind : uint8_t {
    none,     // nothing is lent, `data` is filled
    memory,   // the bytes lie at `at`
    piped,    // the pipe holds them
    spoiled,  // `data` is filled, and the pipe holds some rest
  } kind = none;
  const char* at = nullptr;
  int pipe = -1;  // write end, with room for the whole read; -1: none is offered
};

// A request belongs to whoever submits it and stays untouched by layers until `done` has run,
// which happens exactly once, possibly before submit() returns. A layer that must see the
// completion submits a child request of its own.
//
// Errors are errno values. Two of them mean something exact here: ERANGE is a request that crosses
// the end, EROFS a write to a read-only disk. The rest is named as the kernel's block layer does
// (blk_errors[] in block/blk-core.c): EBADE a reservation conflict, ENODATA a medium error, EILSEQ
// a failed protection check; ECANCELED is a request that a preempt-and-abort has ended.
struct Request {
  Op op = Op::read;
  uint32_t flags = 0;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes; equals the sum of `data` for read and write
  const iovec* data = nullptr;
  int segments = 0;
  // `data` is memory that others change meanwhile, or that has one page several times. Only a layer
  // that is declared as passing data on gets such a request (blk/private.hpp).
  bool shared = false;
  std::vector<Extent>* extents = nullptr;  // map: appended to, in order, from `offset` on
  Injected* injected = nullptr;
  Loan* loan = nullptr;  // read: the front end takes loans
  WireFault* wire = nullptr;
  Front front = Front::host;
  uint32_t connection = 0;
  std::string_view host;  // who asks, for reservations; "" where nobody has said
  void* owner = nullptr;
  void (*done)(Request& request, int error) = nullptr;
};

enum class DiscardBehaviour : uint8_t { zeroes, unspecified, ignored };

using DiskId = std::array<uint8_t, 16>;

// All but `size` is fixed for the life of a disk.
struct Geometry {
  uint64_t size = 0;                    // bytes, a multiple of sector_size
  uint32_t sector_size = 512;           // power of two, at least 512
  uint32_t physical_sector_size = 512;  // power of two, at least sector_size
  uint32_t discard_granularity = 512;   // bytes
  DiscardBehaviour discard = DiscardBehaviour::zeroes;
  bool fua = true;  // honoured
  bool read_only = false;
  DiskId id{};  // all zero: none
};

class StateOut;
class StateIn;

class Disk {
 public:
  virtual ~Disk() = default;
  virtual const Geometry& geometry() const = 0;
  virtual void submit(Request& request) = 0;
  // Whether it reads the data of this request more than once, changes it in place or keeps it.
  // Asked of layers that are declared as deciding by request (registry.cpp), when the data is
  // shared.
  virtual bool looks_at(const Request&) const { return true; }
  // A command for one kind of layer ({"op":"fault.add",…}). Code::unsupported from those that do
  // not know it; a wrapping layer then asks the one below.
  virtual Result<json> control(const json& request);
  // Changes the size. Called while nothing is in flight; may block for a moment. A layer with a
  // geometry of its own overrides it. Code::unsupported from a back end that cannot.
  virtual Result<> resize(uint64_t size);
  // Adds what this layer and those below want to show.
  virtual void inspect(json& out) const { static_cast<void>(out); }
  // For snapshots (blk/state.hpp): a layer writes down what it remembers and goes on below; a back
  // end is the content. Called while nothing is in flight. load_state() takes it back, before the
  // first request.
  virtual Result<> save_state(StateOut& out);
  virtual Result<> load_state(StateIn&) { return {}; }
};

// Base of every layer: passes everything on.
class Forward : public Disk {
 public:
  explicit Forward(std::unique_ptr<Disk> lower) : lower_(std::move(lower)) {}
  const Geometry& geometry() const override { return lower_->geometry(); }
  void submit(Request& request) override { lower_->submit(request); }
  bool looks_at(const Request& request) const override { return lower_->looks_at(request); }
  Result<json> control(const json& request) override { return lower_->control(request); }
  Result<> resize(uint64_t size) override { return lower_->resize(size); }
  void inspect(json& out) const override { lower_->inspect(out); }
  Result<> save_state(StateOut& out) override { return lower_->save_state(out); }
  Result<> load_state(StateIn& in) override { return lower_->load_state(in); }

 protected:
  Disk& lower() { return *lower_; }
  const Disk& lower() const { return *lower_; }

 private:
  std::unique_ptr<Disk> lower_;
};

class AsyncIo;

// How a layer comes by further images (stripe members) and by files of its own (overlays).
class Opener {
 public:
  virtual ~Opener() = default;
  // An image in any format, locked; what it needs to live is kept by the opener. `key_file` holds
  // the passphrase of an encrypted one, "" for others.
  virtual Result<std::unique_ptr<Disk>> image(const std::string& path, bool read_only,
                                              const std::string& key_file) = 0;
  // For a layer's own files. Outlives every layer.
  virtual Result<AsyncIo*> async_io() = 0;
};

// What a factory hands to a layer: time and chance come from here and nowhere else.
struct Env {
  Clock& clock;
  Timers& timers;
  Loop* loop = nullptr;  // null in tests that drive a stack by hand
  uint64_t seed = 0;
  Opener* opener = nullptr;             // null where layers may not open anything
  std::string dir = {};                 // for files that go with the disk; "": there is none
  std::function<void()> on_fault = {};  // called for each event of a fault layer's journal
  bool keeps = false;                   // what layers remember is to survive the process, in `dir`
  bool bases_are_known = false;         // overlays that are only read need not look at theirs
};

}  // namespace pv::blk
