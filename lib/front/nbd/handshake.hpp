// SPDX-License-Identifier: MIT
// The option phase of one connection, as a pure function of bytes: what the client sent goes in,
// what to answer comes out. No descriptor, no disk: easy to test, easy to fuzz.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "blk/disk.hpp"

namespace pv::nbd {

// What the server offers. `name` is the export's name; "" is always accepted as well. Behind either
// a client may say "@HOST": which host it is, for reservations.
struct Export {
  std::string name;
  std::string description;
  blk::Geometry geometry;
};

// Transmission flags that describe a geometry to a client that has, or has not, negotiated
// structured replies ("Transmission flags" of the protocol).
uint16_t transmission_flags(const blk::Geometry& geometry, bool structured);

class Handshake {
 public:
  enum class State { negotiating, transmission, closed };

  // Starts with the server's greeting in output().
  explicit Handshake(const Export& exported);

  // Takes as many of `bytes` as it can use and returns how many; what is left belongs to the
  // transmission phase, or to an option that is not complete yet.
  size_t feed(std::string_view bytes);

  // Where a fault makes it close: at the client's first option, or when it should enter the
  // transmission phase, instead of the last answer.
  enum class Stop { never, first_option, entry };
  void stop_at(Stop stop) { stop_ = stop; }

  State state() const { return state_; }
  std::string& output() { return output_; }
  bool structured() const { return structured_; }
  // The transmission flags, as the client gets them: what is not among them, it must not use.
  uint16_t offered() const { return transmission_flags(export_.geometry, structured_); }
  bool base_allocation() const { return base_allocation_; }
  const std::string& host() const { return host_; }  // "" where the client has not said

 private:
  size_t client_flags(std::string_view bytes);
  size_t option(std::string_view bytes);
  void handle(uint32_t option, std::string_view data);
  void export_name(std::string_view data);
  void info_or_go(uint32_t option, std::string_view data);
  void meta_context(uint32_t option, std::string_view data);
  void reply(uint32_t option, uint32_t type, std::string_view data = {});
  void reply_info(uint32_t option, uint16_t type, std::string_view data);
  bool known_name(std::string_view name) const;
  void enter(std::string_view name);

  const Export& export_;
  State state_ = State::negotiating;
  Stop stop_ = Stop::never;
  bool flags_seen_ = false;
  bool fixed_ = false;
  bool no_zeroes_ = false;
  bool structured_ = false;
  bool base_allocation_ = false;
  std::string host_;
  std::string output_;
};

constexpr uint32_t k_base_allocation_id = 1;

}  // namespace pv::nbd
