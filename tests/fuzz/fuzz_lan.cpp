// SPDX-License-Identifier: MIT
// A lan's ports: a stream cut into pieces gives the frames that it gives in one piece, and a switch
// takes any frames without losing count of one.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/timers.hpp"
#include "lan/frames.hpp"
#include "lan/switch.hpp"

namespace {

using namespace pv;
using namespace pv::lan;

// The frames before the stream goes wrong.
std::vector<std::string> frames_of(std::string_view bytes, size_t piece) {
  FrameReader reader;
  std::vector<std::string> frames;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    if (!reader.feed(bytes.substr(at, piece))) break;
    while (const auto frame = reader.next()) frames.emplace_back(*frame);
  }
  return frames;
}

void run_switch(const std::vector<std::string>& frames) {
  ManualClock clock;
  ManualTimers timers(clock);
  Switch lan(clock, timers);
  uint64_t delivered = 0;
  for (PortId id : {1, 2})
    lan.add(id, [&](std::string_view) {
      ++delivered;
      return Switch::Sent::yes;
    });
  LinkSettings link;
  link.latency_ns = 5;
  link.jitter_ns = 7;
  link.loss = 0.1;
  lan.set_link(2, link);
  for (const std::string& frame : frames) {
    lan.receive(frame.size() % 2 == 0 ? 1 : 2, frame);
    timers.advance_ns(1);
  }
  timers.advance_ns(100);
  const PortCounters one = lan.counters(1), two = lan.counters(2);
  if (one.frames_out + two.frames_out != delivered || !timers.empty()) abort();
  if (one.frames_in + two.frames_in + one.malformed + two.malformed != frames.size()) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t piece = size == 0 ? 1 : data[size - 1] % 16 + 1;
  const auto cut = frames_of(bytes, piece);
  // What comes before a length that is too large may go out, or not, with how it arrives.
  const auto whole = frames_of(bytes, size + 1);
  if (!whole.empty() && whole != cut) abort();
  run_switch(cut);
  return 0;
}
