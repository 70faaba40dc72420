// SPDX-License-Identifier: MIT
// A bar on standard error while something long goes on; nothing where that is no terminal.
#pragma once

#include <cstdint>

namespace pv::verifycmd {

class Progress {
 public:
  explicit Progress(uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // So much of the total is done; draws at most ten times a second.
  void at(uint64_t done);
  // Takes the bar away, so that something else can be printed.
  void clear();

 private:
  bool on_terminal_;
  bool drawn_ = false;
  uint64_t total_, start_ns_, next_ns_;
};

}  // namespace pv::verifycmd
