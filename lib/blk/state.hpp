// SPDX-License-Identifier: MIT
// What a snapshot keeps of a stack besides its data: for each layer that remembers something a
// section (JSON) and records (bytes), outermost layer first. A stack of the same layers takes them
// back in the same order. Sections go into a document of the caller's, records into one file;
// every record has a checksum. Used by one thread, while nothing is in flight.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::blk {

class Disk;

// One piece of a layer's state; what the numbers say is the layer's business.
struct StateRecord {
  uint32_t kind = 0;
  uint64_t a = 0, b = 0;
  std::string bytes;
};
constexpr uint64_t k_max_state_record = 32 << 20;  // bytes

// Where a stack is saved to. Disk::save_state() goes down the stack; what holds all data from some
// place down says so with content().
class StateOut {
 public:
  // `records` is an empty file; it must outlive this.
  explicit StateOut(int records);
  virtual ~StateOut();

  // Begins the section of a layer; the records that follow belong to it.
  void section(const char* layer, json state);
  Result<> record(const StateRecord& record);
  // After the last layer: [{"layer","state","records"}], outermost first.
  Result<json> finish();

  // An overlay in a file of the layer's own; `seal` makes a copy of that file a whole overlay.
  struct Overlay {
    int fd = -1;
    bool read_only = false;  // never written: it is part of the base
    bool temporary = false;
    std::function<Result<>(int copy)> seal;
  };
  // False when the base below may not be relied on: the layer then is the content().
  virtual Result<bool> overlay(Overlay) { return false; }
  // What is below belongs to a base that never changes.
  virtual bool in_base() const { return false; }
  // `disk` holds all data; `fd` when it is a raw file, else -1. Read when the walk is over.
  virtual Result<> content(Disk& disk, int fd) = 0;

 private:
  int fd_;
  std::unique_ptr<json> sections_;
  std::string buffer_;
  uint64_t written_ = 0;
};

// What was saved, on its way back. Everything in it is foreign: each answer is
// Code::snapshot_corrupt when it is not what a StateOut has written.
class StateIn {
 public:
  // `sections` is what finish() has said.
  static Result<StateIn> open(const json& sections, Fd records);
  StateIn(StateIn&&) noexcept;
  StateIn& operator=(StateIn&&) noexcept;
  ~StateIn();

  // The state of the next layer, which must be this one. Valid until the next call.
  Result<const json*> section(const char* layer);
  // How many records of the section are left, and the next one.
  uint64_t left() const { return left_; }
  Result<StateRecord> record();
  // Nothing may be left over.
  Result<> end();

 private:
  StateIn() = default;
  Result<> take(char* to, size_t count);
  std::unique_ptr<json> sections_;
  size_t next_ = 0;
  uint64_t left_ = 0;
  Fd fd_;
  std::string buffer_;
  size_t used_ = 0;
};

// Code::snapshot_corrupt, of a layer's state.
tl::unexpected<Error> bad_state(const char* layer, std::string_view what);

}  // namespace pv::blk
