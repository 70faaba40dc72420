// SPDX-License-Identifier: MIT
// One connection to an NBD server, made again when it is lost. Belongs to the disk that uses it and
// lives on the loop's thread; only connect_now() blocks.
#pragma once

#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "blk/backend/libnbd.hpp"
#include "blk/backend/nbd.hpp"

namespace pv::blk {

class NbdLink {
 public:
  class Owner {
   public:
    virtual Result<> link_up() = 0;  // negotiated; an error turns the server down
    virtual void link_moved() = 0;   // completions may have come
    virtual void link_down() = 0;    // lost, or an attempt has failed
    virtual bool link_wanted() = 0;  // whether to try again after a failed attempt

   protected:
    ~Owner() = default;
  };

  NbdLink(const LibNbd& nbd, Loop& loop, Owner& owner) : nbd_(nbd), loop_(loop), owner_(owner) {}
  ~NbdLink() { close(); }
  NbdLink(const NbdLink&) = delete;
  NbdLink& operator=(const NbdLink&) = delete;

  // Looks the server's name up, once: later attempts may not block.
  Result<> resolve(const NbdOptions& options);
  Result<> connect_now(const Deadline& deadline);
  // An attempt at once, or when the pause after the last failed one is over.
  void want();
  // After commands: waits for what the connection waits for, and notices that it is lost.
  void update();
  void close();

  // {"server","export"}: the same for two connections to the same disk.
  Result<json> where() const;

  bool up() const { return state_ == State::up; }
  nbd_handle* handle() const { return handle_; }
  const std::string& why() const { return why_; }  // it is down

 private:
  enum class State : uint8_t { down, connecting, up };
  struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
  };

  bool dead() const {
    return nbd_.nbd_aio_is_dead(handle_) == 1 || nbd_.nbd_aio_is_closed(handle_) == 1;
  }
  Result<> begin();
  uint32_t wants() const;
  bool notify(uint32_t events);
  bool step(int timeout_ms);
  void attempt();
  void failed(std::string why);
  void ready(uint32_t events);
  Result<> watch();

  const LibNbd& nbd_;
  Loop& loop_;
  Owner& owner_;
  NbdKeeper* keeper_ = nullptr;
  std::string socket_, export_name_;
  std::vector<Address> addresses_;
  size_t next_address_ = 0;
  State state_ = State::down;
  nbd_handle* handle_ = nullptr;
  int watched_ = -1;
  uint32_t interest_ = 0;
  TimerId timer_ = 0;      // the next attempt, or the end of this one's patience
  uint64_t pause_ns_ = 0;  // after the last failed attempt
  std::string why_;
};

}  // namespace pv::blk
