// SPDX-License-Identifier: MIT
// Begins the conversation with a vhost-user client in place of a server that may be killed any
// moment. QEMU 7.2 never connects again when a server dies between its first question and the
// answer to the last one of vhost_dev_init() (hw/virtio/vhost-user.c); from there on it does. All
// that has one answer for the life of a disk is answered here, what the client sets is noted, and
// with the first message that is the server's business the whole goes to the server. Owned by the
// process that starts the server again, on its loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.hpp"
#include "front/vhost/handover.hpp"

namespace pv::vhost {

class Greeter {
 public:
  // Clients come to `listener`, and go to `pass`. `features` is
  // what the disk offers; 0 as long as no server has said.
  Greeter(Loop& loop, Fd listener, std::function<uint64_t()> features,
          std::function<void(Handover)> pass);
  ~Greeter();
  Result<> start();

 private:
  struct Talk {
    std::unique_ptr<Channel> channel;
    std::vector<Said> said;
    uint64_t protocol = 0;
  };
  static constexpr size_t k_max_talks = 8;

  void accept_all();
  void ready(Talk* talk);
  bool answer(Talk& talk, Message& message);
  bool note(Talk& talk, Message& message);
  void hand_over(Talk* talk, Message& message);
  void end(Talk* talk);

  Loop& loop_;
  Fd listener_;
  std::function<uint64_t()> features_;
  std::function<void(Handover)> pass_;
  std::vector<std::unique_ptr<Talk>> talks_;
};

}  // namespace pv::vhost
