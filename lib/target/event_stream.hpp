// SPDX-License-Identifier: MIT
// The events of a VM together with the faults that its disks have met: what has happened so far in
// the order of time, and on request what happens from then on. Used by one command at a time, on
// its thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/line_channel.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/supervisor/event_log.hpp"

namespace pv::target {

class EventStream {
 public:
  using Take = std::function<Result<>(const json& event)>;

  // Only events after number `since` of the VM's log, and faults after that event.
  EventStream(const RunDir& run, const Object& vm, uint64_t since, Take take)
      : run_(run), vm_(vm), since_(since), take_(std::move(take)), log_(vm) {}

  // All of it, and of each disk at most the latest 65,536 faults.
  Result<> catch_up();
  // Then what comes, until the VM is closed.
  Result<> follow();
  // How many events were handed over.
  uint64_t count() const { return count_; }

 private:
  struct Disk {
    std::string id;
    uint64_t last = 0;  // number of the last fault that was told
    std::unique_ptr<LineChannel> channel;
  };
  Result<> give(const json& event);
  Result<> read_log(const std::function<void(json)>& take);
  std::vector<json> faults_of(Disk& disk, const json& where) const;
  void connect_disks(Loop& loop);
  void ask(Disk& disk);
  Result<> hear(Disk& disk, const std::string& line);

  const RunDir& run_;
  const Object& vm_;
  uint64_t since_;
  Take take_;
  vm::EventReader log_;
  uint64_t from_ns_ = 0;               // wall clock
  std::map<std::string, Disk> disks_;  // by directory
  uint64_t count_ = 0;
};

}  // namespace pv::target
