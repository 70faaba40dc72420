// SPDX-License-Identifier: MIT
// A port's socket: QEMU connects to it, one connection at a time. What QEMU does not read in time
// is dropped, whole frames only, so that a slow VM slows down nobody else. Owned by the lan's
// server, on its thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "lan/frames.hpp"
#include "lan/switch.hpp"

namespace pv::lan {

class Port {
 public:
  // What may wait for QEMU to read it.
  static constexpr size_t k_max_unsent = 1 << 20;

  static Result<std::unique_ptr<Port>> open(Loop& loop, Switch& lan, PortId id,
                                            const std::string& path);
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  ~Port();

  bool connected() const { return static_cast<bool>(connection_); }
  Switch::Sent send(std::string_view frame);

 private:
  Port(Loop& loop, Switch& lan, PortId id, std::string path, Fd listener)
      : loop_(loop),
        switch_(lan),
        id_(id),
        path_(std::move(path)),
        listener_(std::move(listener)) {}
  void accept();
  void on_ready(uint32_t events);
  bool receive();
  bool flush();
  void hang_up();

  Loop& loop_;
  Switch& switch_;
  const PortId id_;
  const std::string path_;
  Fd listener_;
  Fd connection_;
  FrameReader reader_;
  std::string unsent_;
  bool want_write_ = false;
};

}  // namespace pv::lan
