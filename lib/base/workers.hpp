// SPDX-License-Identifier: MIT
// Jobs done at the same time, each in a child process of its own that reports one JSON value and
// ends. The children die with us. Single-threaded: whoever waits hears of each job in turn.
#pragma once

#include <functional>
#include <sys/types.h>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace pv {

class Workers {
 public:
  using Body = std::function<Result<json>()>;
  using Done = std::function<void(size_t job, Result<json> result)>;

  ~Workers() { kill(); }

  // `body` runs in the child. Fails when there can be no child.
  Result<> start(size_t job, const Body& body);
  size_t count() const { return workers_.size(); }
  // Waits until something has come; `done` is called for each job that has ended. False when
  // `other`, a descriptor, became readable meanwhile (-1: there is none).
  bool wait(const Done& done, int other = -1);
  // Kills those at work; their jobs.
  std::vector<size_t> kill();

 private:
  struct Worker {
    size_t job = 0;
    pid_t pid = 0;
    Fd report;
    std::string text;
  };
  void receive(size_t index, const Done& done);

  std::vector<Worker> workers_;
};

}  // namespace pv
