// SPDX-License-Identifier: MIT
// A non-blocking stream socket that carries lines, as QMP, the guest agent and control sockets do;
// a line may announce raw bytes that follow it.
// Both directions are bounded: a peer that sends a line without end, or does not read what we
// send, is cut off instead of filling our memory. Owned by one object on one Loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/loop.hpp"

namespace pv {

// Longest line that a peer may send: qemu-ga caps the output of a command at 16 MiB per stream,
// which is 21.4 MiB of base64 each.
constexpr size_t k_max_line_bytes = 64 << 20;
// Most that may wait for a peer to read it.
constexpr size_t k_max_unsent_bytes = 96 << 20;

// Cuts a stream of bytes into lines.
class LineBuffer {
 public:
  explicit LineBuffer(size_t max_line_bytes = k_max_line_bytes) : max_(max_line_bytes) {}
  // False when the unfinished line has grown beyond the bound; it is then dropped.
  bool feed(std::string_view bytes);
  // Next complete line without its newline (and carriage return).
  std::optional<std::string> next();
  // What follows the last line that was handed out: at most `max_bytes`, as they are.
  std::string take(size_t max_bytes);

 private:
  size_t max_;
  std::string data_;
  size_t start_ = 0;     // where the first unread line begins
  size_t searched_ = 0;  // no newline between start_ and here
};

class LineChannel {
 public:
  struct Handler {
    std::function<void(std::string line)> line;
    // Called once, last; the channel may be destroyed in it.
    std::function<void(const char* why)> closed;
    // What expect_raw() asked for, in one piece.
    std::function<void(std::string bytes)> raw{};
    // Everything that waited to be sent is on its way.
    std::function<void()> drained{};
  };

  LineChannel(Loop& loop, Fd fd, Handler handler);
  LineChannel(const LineChannel&) = delete;
  LineChannel& operator=(const LineChannel&) = delete;
  ~LineChannel();

  // Sends now what the socket takes and the rest later. False when the channel is closed or the
  // peer has left too much unread.
  bool send(std::string_view bytes);
  // From inside the `line` handler: the next `count` bytes, more than none, are no lines.
  void expect_raw(size_t count);
  // While held nothing is read or delivered: what comes waits in the socket.
  void hold(bool on);
  size_t unsent_bytes() const { return out_.size() - out_start_; }
  bool is_open() const { return static_cast<bool>(fd_); }
  int fd() const { return fd_.get(); }
  // Stops without calling closed().
  void shut();

 private:
  void on_ready(uint32_t events);
  bool receive_raw();
  void receive();
  void deliver();
  void update_interest();
  bool flush();
  void end(const char* why);

  Loop& loop_;
  Fd fd_;
  Handler handler_;
  LineBuffer in_;
  std::string out_;
  size_t out_start_ = 0;
  bool want_write_ = false;
  bool held_ = false;
  std::string raw_;
  size_t raw_have_ = 0;  // of raw_.size(); nothing is expected when that is 0
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // false once destroyed or shut
};

// Connects without waiting: an empty Fd when nobody listens (yet).
Fd try_connect(const std::string& path);

}  // namespace pv
