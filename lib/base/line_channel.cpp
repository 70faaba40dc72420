// SPDX-License-Identifier: MIT
#include "base/line_channel.hpp"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/socket.hpp"

namespace pv {

bool LineBuffer::feed(std::string_view bytes) {
  data_.append(bytes);
  if (data_.size() - start_ <= max_) return true;
  const size_t end = data_.find('\n', searched_);
  if (end != std::string::npos) return true;  // long, but complete: the reader takes it next
  data_.clear();
  start_ = searched_ = 0;
  return false;
}

std::optional<std::string> LineBuffer::next() {
  const size_t end = data_.find('\n', searched_);
  if (end == std::string::npos) {
    // Everything before start_ was handed out: give its memory back once, not per line.
    data_.erase(0, start_);
    start_ = 0;
    searched_ = data_.size();
    if (data_.empty() && data_.capacity() > (1U << 20)) data_.shrink_to_fit();
    return std::nullopt;
  }
  std::string line = data_.substr(start_, end - start_);
  start_ = searched_ = end + 1;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

std::string LineBuffer::take(size_t max_bytes) {
  std::string bytes = data_.substr(start_, max_bytes);
  start_ += bytes.size();
  searched_ = start_;
  return bytes;
}

LineChannel::LineChannel(Loop& loop, Fd fd, Handler handler)
    : loop_(loop), fd_(std::move(fd)), handler_(std::move(handler)) {
  if (!loop_.watch(fd_.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); }))
    loop_.post([this, alive = alive_] {
      if (*alive) end("cannot be watched");
    });
}

LineChannel::~LineChannel() {
  shut();
}

void LineChannel::shut() {
  *alive_ = false;
  if (fd_) loop_.unwatch(fd_.get());
  fd_.reset();
}

void LineChannel::end(const char* why) {
  if (!fd_) return;
  shut();
  auto closed = std::move(handler_.closed);
  if (closed) closed(why);  // may destroy this object
}

void LineChannel::on_ready(uint32_t events) {
  const auto alive = alive_;
  if ((events & EPOLLOUT) != 0 && !flush()) return end("the other side has closed");
  if (!*alive) return;
  if (held_ && (events & (EPOLLHUP | EPOLLERR)) != 0) return end("the other side has closed");
  if (!held_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
}

// Straight to where the bytes are wanted; false when the other side has closed.
bool LineChannel::receive_raw() {
  while (raw_have_ < raw_.size()) {
    const ssize_t n =
        recv(fd_.get(), raw_.data() + raw_have_, raw_.size() - raw_have_, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    raw_have_ += static_cast<size_t>(n);
  }
  return true;
}

void LineChannel::receive() {
  constexpr size_t k_chunk = 65536;
  char chunk[k_chunk];
  if (!raw_.empty()) {
    if (!receive_raw()) return end("the other side has closed");
    return deliver();
  }
  const ssize_t n = recv(fd_.get(), chunk, sizeof chunk, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return end("the other side has closed");
  if (!in_.feed({chunk, static_cast<size_t>(n)})) return end("a line is too long");
  deliver();
}

void LineChannel::deliver() {
  const auto alive = alive_;
  while (*alive && !held_) {
    if (!raw_.empty()) {
      if (raw_have_ < raw_.size()) return;
      raw_have_ = 0;
      handler_.raw(std::exchange(raw_, std::string()));
    } else {
      auto line = in_.next();
      if (!line) return;
      handler_.line(std::move(*line));
    }
  }
}

void LineChannel::expect_raw(size_t count) {
  raw_ = in_.take(count);
  raw_have_ = raw_.size();
  raw_.resize(count);
}

void LineChannel::hold(bool on) {
  if (!fd_ || held_ == on) return;
  held_ = on;
  update_interest();
  if (on) return;
  loop_.post([this, alive = alive_] {
    if (*alive) deliver();  // what had been read already
  });
}

void LineChannel::update_interest() {
  const uint32_t in = held_ ? 0U : EPOLLIN;
  loop_.change(fd_.get(), want_write_ ? in | EPOLLOUT : in);
}

bool LineChannel::flush() {
  while (unsent_bytes() > 0) {
    const ssize_t n =
        ::send(fd_.get(), out_.data() + out_start_, unsent_bytes(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return false;
    out_start_ += static_cast<size_t>(n);
  }
  if (unsent_bytes() == 0) {
    out_ = std::string();
    out_start_ = 0;
  }
  const bool want = unsent_bytes() > 0;
  if (want == want_write_) return true;
  want_write_ = want;
  update_interest();
  if (!want && handler_.drained) handler_.drained();
  return true;
}

bool LineChannel::send(std::string_view bytes) {
  if (!fd_) return false;
  if (unsent_bytes() + bytes.size() > k_max_unsent_bytes) return false;
  out_.append(bytes);
  if (flush()) return true;
  // The caller may be in the middle of something: report the end from the loop, not from here.
  loop_.post([this, alive = alive_] {
    if (*alive) end("the other side has closed");
  });
  return false;
}

Fd try_connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() > k_max_socket_path) return Fd();
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Fd();
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return Fd();
  return fd;
}

}  // namespace pv
