// SPDX-License-Identifier: MIT
// The disks of a VM whose snapshot is taken: each is asked by its server to put down its instant,
// all at the same time. When this is destroyed they go on as if nothing had been.
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "base/socket.hpp"

namespace pv::snap {

class SavedDisks {
 public:
  // Makes disks/ID in `dir` for each. From here on their servers hold back the flush that QEMU
  // makes when it stops: it is no flush of the guest's, and would empty their volatile caches.
  static Result<SavedDisks> prepare(const RunDir& run, const Object& vm, const std::string& dir,
                                    const Deadline& deadline);

  // How many flushes have come so far; once the guest's own have been counted.
  Result<> count_flushes();
  // The VM stands still. `before` and `after`: flushes of the guest, by disk, counted before
  // count_flushes() and now.
  Result<> start_save(const json& before, const json& after);
  // {ID: manifest}
  Result<json> finish_save();

 private:
  struct Disk {
    std::string id;
    std::string dir;
    LineClient line;
    uint64_t flushes = 0;
  };
  explicit SavedDisks(const Deadline& deadline) : deadline_(deadline) {}
  Result<> add(const RunDir& run, const Object& vm, const std::string& id, const std::string& dir);
  Result<json> call(Disk& disk, json request);
  Result<uint64_t> flushes_of(Disk& disk);

  Deadline deadline_;
  std::vector<Disk> disks_;
};

}  // namespace pv::snap
