// SPDX-License-Identifier: MIT
#include "blk/backend/nbd_link.hpp"

#include <algorithm>
#include <cstring>
#include <netdb.h>
#include <poll.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/json.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_nbd_link_context = "base:allocation";
constexpr uint64_t k_first_pause_ns = 10 * k_ns_per_ms;
constexpr uint64_t k_longest_pause_ns = k_ns_per_s;
constexpr uint64_t k_attempt_ns = 10 * k_ns_per_s;

}  // namespace

Result<> NbdLink::resolve(const NbdOptions& options) {
  keeper_ = options.keeper;
  export_name_ = options.export_name;
  if (!options.socket.empty()) {
    socket_ = options.socket;
    Address address;
    auto* name = reinterpret_cast<sockaddr_un*>(&address.storage);
    if (options.socket.size() >= sizeof name->sun_path)
      return fail(Code::invalid, "the path of the socket is too long: " + options.socket);
    name->sun_family = AF_UNIX;
    std::memcpy(name->sun_path, options.socket.c_str(), options.socket.size() + 1);
    address.length = sizeof(sockaddr_un);
    addresses_.push_back(address);
    return {};
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int err = getaddrinfo(options.host.c_str(), options.port.c_str(), &hints, &found))
    return fail(Code::io, fmt::format("cannot find host '{}', port '{}': {}", options.host,
                                      options.port, gai_strerror(err)));
  DEFER({ freeaddrinfo(found); });
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    Address address;
    std::memcpy(&address.storage, at->ai_addr, at->ai_addrlen);
    address.length = at->ai_addrlen;
    addresses_.push_back(address);
  }
  return {};
}

// A new handle on its way to the next address.
Result<> NbdLink::begin() {
  if (keeper_) TRY(keeper_->revive());
  handle_ = nbd_.nbd_create();
  if (!handle_) return fail(Code::system, nbd_.nbd_get_error());
  const Address& address = addresses_[next_address_++ % addresses_.size()];
  nbd_.nbd_set_strict_mode(handle_, 0);  // what the server cannot do, it may say itself
  if (nbd_.nbd_set_export_name(handle_, export_name_.c_str()) < 0 ||
      nbd_.nbd_set_full_info(handle_, true) < 0 ||  // it may have the export's own name
      nbd_.nbd_add_meta_context(handle_, k_nbd_link_context) < 0 ||
      nbd_.nbd_aio_connect(handle_, reinterpret_cast<const sockaddr*>(&address.storage),
                           address.length) < 0)
    return fail(Code::io, nbd_.nbd_get_error());
  return {};
}

Result<> NbdLink::connect_now(const Deadline& deadline) {
  close();
  Result<> outcome;
  for (size_t i = 0; i < addresses_.size(); ++i) {
    outcome = begin();
    while (outcome && nbd_.nbd_aio_is_ready(handle_) != 1) {
      if (deadline.passed())
        outcome = fail(Code::timeout, "the server does not answer in time");
      else if (!step(deadline.left_ms()) || dead())
        outcome = fail(Code::io, nbd_.nbd_get_error());
    }
    if (outcome) break;
    close();
  }
  if (outcome) outcome = owner_.link_up();
  if (outcome) outcome = watch();
  if (!outcome) {
    close();
    why_ = outcome.error().message;
    return outcome;
  }
  state_ = State::up;
  pause_ns_ = 0;
  return {};
}

void NbdLink::want() {
  if (state_ != State::down || timer_ != 0) return;
  timer_ = loop_.after(pause_ns_, [this] {
    timer_ = 0;
    attempt();
  });
}

void NbdLink::attempt() {
  if (auto begun = begin(); !begun) return failed(begun.error().message);
  state_ = State::connecting;
  if (auto watched = watch(); !watched) return failed(watched.error().message);
  timer_ = loop_.after(k_attempt_ns, [this] {
    timer_ = 0;
    failed("the server does not answer in time");
  });
  update();
}

void NbdLink::failed(std::string why) {
  close();
  why_ = std::move(why);
  pause_ns_ = std::clamp(pause_ns_ * 2, k_first_pause_ns, k_longest_pause_ns);
  owner_.link_down();
  if (owner_.link_wanted()) want();
}

Result<> NbdLink::watch() {
  interest_ = EPOLLIN;
  const int fd = nbd_.nbd_aio_get_fd(handle_);
  TRY(loop_.watch(fd, interest_, [this](uint32_t events) { ready(events); }));
  watched_ = fd;
  return {};
}

// What the connection waits for, as EPOLL* bits.
uint32_t NbdLink::wants() const {
  const unsigned direction = nbd_.nbd_aio_get_direction(handle_);
  return ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? EPOLLIN : 0U) |
         ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? EPOLLOUT : 0U);
}

// A broken connection is told to the side that waits: nbd_poll() would always tell the reader,
// which libnbd 1.14 refuses while it still connects.
bool NbdLink::notify(uint32_t events) {
  const uint32_t wanted = wants();
  const bool broken = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if ((wanted & EPOLLIN) != 0 && (broken || (events & EPOLLIN) != 0))
    return nbd_.nbd_aio_notify_read(handle_) == 0;
  if ((wanted & EPOLLOUT) != 0 && (broken || (events & EPOLLOUT) != 0))
    return nbd_.nbd_aio_notify_write(handle_) == 0;
  return true;
}

bool NbdLink::step(int timeout_ms) {
  pollfd waiting = {nbd_.nbd_aio_get_fd(handle_), static_cast<short>(wants()), 0};
  if (poll(&waiting, 1, timeout_ms) <= 0) return true;
  return notify(static_cast<uint32_t>(waiting.revents));
}

void NbdLink::ready(uint32_t events) {
  if (!notify(events)) why_ = nbd_.nbd_get_error();
  update();
  owner_.link_moved();
}

void NbdLink::update() {
  if (handle_ == nullptr) return;
  if (dead()) {
    const std::string why = why_.empty() ? "the server has closed the connection" : why_;
    if (state_ == State::connecting) return failed(why);
    close();
    why_ = why;
    owner_.link_down();
    return want();
  }
  if (state_ == State::connecting && nbd_.nbd_aio_is_ready(handle_) == 1) {
    if (auto good = owner_.link_up(); !good) return failed(good.error().message);
    loop_.cancel(std::exchange(timer_, 0));
    state_ = State::up;
    pause_ns_ = 0;
    why_.clear();
  }
  const uint32_t wanted = wants();
  if (wanted == interest_) return;
  interest_ = wanted;
  loop_.change(watched_, wanted);
}

// The server by its socket, and the export by what the server calls it.
Result<json> NbdLink::where() const {
  if (handle_ == nullptr) return fail(Code::io, "not connected: " + why_);
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  char host[64] = "", port[16] = "";
  std::string server;
  struct stat st {};
  if (!socket_.empty() && stat(socket_.c_str(), &st) == 0)
    server = fmt::format("unix:{}:{}", st.st_dev, st.st_ino);
  else if (getpeername(nbd_.nbd_aio_get_fd(handle_), reinterpret_cast<sockaddr*>(&peer), &length) ==
               0 &&
           getnameinfo(reinterpret_cast<sockaddr*>(&peer), length, host, sizeof host, port,
                       sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0)
    server = fmt::format("tcp:{}:{}", host, port);
  else
    return fail(Code::unsupported, "a server that is not known");
  const std::unique_ptr<char, decltype(&free)> name(nbd_.nbd_get_canonical_export_name(handle_),
                                                    free);
  return json{{"server", server}, {"export", name ? std::string(name.get()) : export_name_}};
}

void NbdLink::close() {
  if (timer_ != 0) loop_.cancel(std::exchange(timer_, 0));
  if (watched_ >= 0) loop_.unwatch(std::exchange(watched_, -1));
  if (handle_) nbd_.nbd_close(std::exchange(handle_, nullptr));
  state_ = State::down;
}

}  // namespace pv::blk
