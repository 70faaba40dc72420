// SPDX-License-Identifier: MIT
// A command's side of a power cut: the disks that lose their power at one instant, each with the
// conversation in which it is frozen. The work is done by their servers (serve/power.hpp).
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::serve {

struct PowerCut {
  std::string survivors = "none";  // none, all, random, listed
  uint64_t seed = 0;
  uint64_t atomic_bytes = 0;  // 0: the sector of each disk
  struct Range {
    std::string disk;  // "vda" or "v/vda"
    uint64_t offset, length;
  };
  std::vector<Range> keep;
};

class Blackout {
 public:
  // Everything that can be refused is refused here, while nothing has happened yet.
  static Result<Blackout> prepare(const std::vector<Object>& disks, PowerCut cut,
                                  const Deadline& deadline);
  Blackout(Blackout&&) noexcept;
  ~Blackout();  // disks that are frozen and have not been cut go on as before

  Result<> freeze();
  // Cuts and gives the power back: a list with an object for each disk. The first that goes wrong
  // is reported when all have been cut: what is frozen has no way back.
  Result<json> finish(const Deadline& deadline);

 private:
  struct Victim;
  explicit Blackout(PowerCut cut);
  PowerCut cut_;
  std::vector<Victim> victims_;
};

}  // namespace pv::serve
