// SPDX-License-Identifier: MIT
// A front end of one disk: what takes requests from a wire and gives them to the stack. A disk
// server has one or more, and treats them as one (Fronts). Owned by the disk server, on its loop's
// thread.
#pragma once

#include <memory>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace pv::front {

class Front {
 public:
  virtual ~Front() = default;
  virtual Result<> start() = 0;

  // From now on nothing new is begun and nobody is let in.
  virtual void stop() = 0;
  // Lets no further request in until resume(); those in flight go on.
  virtual void pause() = 0;
  virtual void resume() = 0;
  // Takes nothing more from anybody and answers nobody, until thaw(); nobody is let in.
  virtual void freeze() = 0;
  virtual void thaw() = 0;
  // Ends every connection, with what was still to be said to it.
  virtual void hang_up() = 0;
  // The disk has another size. A client of process `peer` (0: of none) that can only learn it by
  // connecting again is disconnected once what it has in flight is answered.
  virtual void resized(pid_t peer) = 0;
  virtual size_t connections() const = 0;
};

// All of a disk's front ends.
class Fronts final : public Front {
 public:
  void add(std::unique_ptr<Front> front) { all_.push_back(std::move(front)); }

  Result<> start() override {
    for (const auto& front : all_) TRY(front->start());
    return {};
  }
  void stop() override { each(&Front::stop); }
  void pause() override { each(&Front::pause); }
  void resume() override { each(&Front::resume); }
  void freeze() override { each(&Front::freeze); }
  void thaw() override { each(&Front::thaw); }
  void hang_up() override { each(&Front::hang_up); }
  void resized(pid_t peer) override {
    for (const auto& front : all_) front->resized(peer);
  }
  size_t connections() const override {
    size_t sum = 0;
    for (const auto& front : all_) sum += front->connections();
    return sum;
  }

 private:
  void each(void (Front::*what)()) {
    for (const auto& front : all_) (front.get()->*what)();
  }
  std::vector<std::unique_ptr<Front>> all_;
};

}  // namespace pv::front
