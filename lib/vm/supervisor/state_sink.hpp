// SPDX-License-Identifier: MIT
// Where QEMU migrates to: a socket of ours that collects what comes until QEMU hangs up. Bounded;
// owned by the supervisor, on its loop's thread.
#pragma once

#include <functional>
#include <string>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "base/result.hpp"

namespace pv::vm {

class StateSink {
 public:
  using Done = std::function<void(Result<std::string> bytes)>;

  explicit StateSink(Loop& loop) : loop_(loop) {}
  ~StateSink() { stop(); }

  // Listens at `path`; `done` is called once, unless stop() comes first.
  Result<> start(const std::string& path, size_t max_bytes, Done done);
  void stop();

 private:
  void accept();
  void receive();
  void finish(Result<std::string> bytes);

  Loop& loop_;
  std::string path_;
  size_t max_bytes_ = 0;
  Fd listener_, peer_;
  std::string bytes_;
  Done done_;
};

}  // namespace pv::vm
