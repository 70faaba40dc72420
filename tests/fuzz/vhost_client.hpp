// SPDX-License-Identifier: MIT
// What the fuzzers of the vhost-user front end share: a device over a disk in memory, and the
// other end of its socket. One thread; each step lets the device take what has come.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <string>
#include <string_view>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include "base/loop.hpp"
#include "blk/backend/memory.hpp"
#include "blk/checked.hpp"
#include "front/vhost/device.hpp"

namespace pv::fuzz {

constexpr uint64_t k_disk_bytes = 1 << 20;

inline Fd make_file(size_t bytes) {
  Fd fd(memfd_create("guest", MFD_CLOEXEC));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) abort();
  return fd;
}

// A device complains of every message; libFuzzer goes on with the stream that it had at the start.
inline void be_quiet() {
  static FILE* const nowhere = std::fopen("/dev/null", "w");
  stderr = nowhere;
}

// A message that may be any: of four bytes of the input, which say what it is, and those that
// follow.
struct Record {
  std::string bytes;
  std::vector<int> fds;
  std::string_view payload;
  bool spare_flag = false;  // bits that say nothing of the message
  uint8_t spare_bits = 0;
};

inline std::optional<Record> next_record(std::string_view& input, const int (&choice)[4]) {
  if (input.size() < 4) return std::nullopt;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(input[i]); };
  const size_t length = std::min<size_t>(byte(3), input.size() - 4);
  const bool lies = (byte(1) & 0x80) != 0;
  const vhost::Header head{byte(0), byte(1) & 0xfU,
                           static_cast<uint32_t>(lies ? length * 64 : length)};
  Record record;
  record.fds.assign(byte(2) >> 4 == 15 ? 12 : byte(2) >> 6, choice[byte(2) & 3]);
  record.payload = input.substr(4, length);
  record.bytes.assign(reinterpret_cast<const char*>(&head), sizeof head);
  record.bytes += record.payload;
  record.spare_flag = (byte(1) & 0x40) != 0;
  record.spare_bits = byte(2) & 0x3c;
  input.remove_prefix(4 + length);
  return record;
}

// One message, with its descriptors, and what is answered until the other side has nothing to say.
inline void say(int socket, Loop& loop, std::string_view bytes, const std::vector<int>& fds) {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  msghdr head{};
  head.msg_iov = &piece;
  head.msg_iovlen = 1;
  if (!fds.empty()) pv::vhost::give_descriptors(head, fds, control);
  static_cast<void>(sendmsg(socket, &head, MSG_NOSIGNAL));
  static_cast<void>(loop.run_once(0));
  char answer[8192];
  while (recv(socket, answer, sizeof answer, 0) > 0) {
  }
}

class Client {
 public:
  explicit Client(blk::Disk& disk, Loop& loop) : loop_(loop), ground_{loop, disk, counters_, {}} {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) abort();
    ours_ = Fd(ends[0]);
    device_ = std::make_unique<vhost::Device>(ground_, Fd(ends[1]), 1, [] {});
    if (!device_->start()) abort();
  }

  // Hangs up; nothing may be left.
  void end() {
    ours_.reset();
    for (int i = 0; i < 10 && !device_->is_gone(); ++i) step();
    if (!device_->is_gone() || device_->in_flight() != 0 || counters_.in_flight() != 0) abort();
    device_.reset();
    step();
  }

  void step() { static_cast<void>(loop_.run_once(0)); }

  void send(std::string_view bytes, const std::vector<int>& fds) {
    say(ours_.get(), loop_, bytes, fds);
  }

  template <class T>
  void tell(uint32_t request, const T& value, const std::vector<int>& fds = {}) {
    std::string bytes(sizeof(vhost::Header) + sizeof value, '\0');
    const vhost::Header head{request, vhost::k_version, sizeof value};
    std::memcpy(bytes.data(), &head, sizeof head);
    std::memcpy(bytes.data() + sizeof head, &value, sizeof value);
    send(bytes, fds);
  }

  // The same for a table of several regions.
  void tell_memory(const std::vector<vhost::MemRegion>& regions, const std::vector<int>& fds) {
    const auto size = sizeof(vhost::MemTable) + regions.size() * sizeof(vhost::MemRegion);
    const vhost::Header head{vhost::k_set_mem_table, vhost::k_version, static_cast<uint32_t>(size)};
    const vhost::MemTable table{static_cast<uint32_t>(regions.size()), 0};
    std::string bytes(reinterpret_cast<const char*>(&head), sizeof head);
    bytes.append(reinterpret_cast<const char*>(&table), sizeof table);
    for (const auto& region : regions)
      bytes.append(reinterpret_cast<const char*>(&region), sizeof region);
    send(bytes, fds);
  }

  bool is_gone() const { return device_->is_gone(); }

 private:
  Loop& loop_;
  blk::Counters counters_;
  vhost::Ground ground_;
  Fd ours_;
  std::unique_ptr<vhost::Device> device_;
};

inline std::unique_ptr<blk::Disk> make_disk() {
  blk::Geometry geometry;
  geometry.size = k_disk_bytes;
  return blk::make_checked(std::move(*blk::make_memory_disk(geometry)));
}

// The descriptor that would be the next one: the same after as before, or one was lost.
inline int next_descriptor() {
  const int fd = dup(0);
  close(fd);
  return fd;
}

}  // namespace pv::fuzz
