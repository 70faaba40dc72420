// SPDX-License-Identifier: MIT
// Stands in for a vhost-user server that does not answer: whoever connects is hung up on. While
// QEMU carries out device_add it does nothing else, waits for an answer, and, once it is hung up
// on, connects again a few times before it gives up, waiting as long as nobody listens. With the
// server ended and this in its place it gives up at once. Owned by the supervisor, on its loop.
#pragma once

#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "base/result.hpp"

namespace pv::vm {

class Decoy {
 public:
  // Takes the socket's place.
  static Result<std::unique_ptr<Decoy>> make(Loop& loop, const std::string& path);
  ~Decoy();
  Decoy(const Decoy&) = delete;
  Decoy& operator=(const Decoy&) = delete;

 private:
  Decoy(Loop& loop, std::string path, Fd listener)
      : loop_(loop), path_(std::move(path)), listener_(std::move(listener)) {}
  Loop& loop_;
  std::string path_;
  Fd listener_;
};

}  // namespace pv::vm
