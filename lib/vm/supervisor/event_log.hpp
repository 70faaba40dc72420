// SPDX-License-Identifier: MIT
// What happens to a VM, one JSON object a line in events.jsonl of its directory: number, wall clock
// time, name, data. Names are ours; QEMU's events are told by them too. The supervisor writes,
// commands read and follow the file. Numbers go on over later boots of the same VM.
#pragma once

#include <optional>
#include <string>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// One of QEMU's events (docs/interop/qemu-qmp-ref) as {"event","data"}; nullopt for one that
// another event tells better.
std::optional<json> translate_event(const json& qmp_event);

// The kernel's last words ("Kernel panic - not syncing: …") in a piece of console output.
std::string panic_in(std::string_view console);

class EventLog {
 public:
  // Opens the log of this VM and goes on after its last number.
  Result<> open(const Object& vm);
  // A log that is full (64 MiB) ends with an event that says so.
  void add(std::string_view event, json data = nullptr);

 private:
  Fd file_;
  uint64_t bytes_ = 0;
  uint64_t last_ = 0;
  bool full_ = false;
};

// Reads the log from its beginning, or on from where it has got.
class EventReader {
 public:
  explicit EventReader(const Object& vm);
  // Hands over each event that has been written completely since.
  using Take = std::function<Result<>(json event)>;
  Result<> read(const Take& take);
  uint64_t last() const { return last_; }

 private:
  std::string path_;
  Fd file_;
  std::string part_;  // of a line
  uint64_t last_ = 0;
};

}  // namespace pv::vm
