// SPDX-License-Identifier: MIT
// The NBD front end: the option phase fed in two pieces does what it does when fed whole, and a
// server takes any bytes of a client without falling over or leaving a request in flight.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "front/nbd/connection.hpp"

namespace {

using namespace pv;

const nbd::Export& exported() {
  static const nbd::Export e = [] {
    nbd::Export made{"disk", "a disk", {}};
    made.geometry.size = 1 << 20;
    return made;
  }();
  return e;
}

void handshake(std::string_view bytes) {
  nbd::Handshake whole(exported()), cut(exported());
  const size_t used = whole.feed(bytes);
  if (used > bytes.size()) abort();
  const size_t middle = bytes.empty() ? 0 : static_cast<unsigned char>(bytes[0]) % bytes.size();
  size_t taken = cut.feed(bytes.substr(0, middle));
  taken += cut.feed(bytes.substr(taken));
  if (taken != used || cut.state() != whole.state() || cut.output() != whole.output()) abort();
}

// One of the faults of the wire at every second request, or none.
void set_rule(blk::Disk& disk, size_t choice) {
  constexpr const char* k_faults[] = {
      R"({"kind":"disconnect","at":"request"})",
      R"({"kind":"disconnect","at":"reply","bytes":30})",
      R"({"kind":"disconnect","at":"options"})",
      R"({"kind":"disconnect","at":"export"})",
      R"({"kind":"violate","what":"chunk_type"})",
      R"({"kind":"violate","what":"chunk_length"})",
      R"({"kind":"violate","what":"missing_data"})",
      R"({"kind":"violate","what":"twice"})",
      R"({"kind":"error","prefix":true})",
  };
  static_cast<void>(disk.control({{"op", "fault.clear"}}));
  if (choice % 16 >= std::size(k_faults)) return;
  json rule = {{"id", "f"}, {"do", *parse_json(k_faults[choice % 16])}};
  rule["when"] = *parse_json(R"({"every":2})");
  if (rule["do"]["kind"] == "error") rule["match"] = *parse_json(R"({"ranges":[[4096,512]]})");
  if (!disk.control({{"op", "fault.add"}, {"rule", rule}})) abort();
}

void serve(std::string_view bytes) {
  static const auto loop = std::move(*Loop::create());
  static const auto disk = std::move(*blk::build_stack(
      std::move(*blk::make_memory_disk(exported().geometry)),
      std::vector<blk::LayerSpec>{{"fault", {}}}, {system_clock(), *loop, loop.get(), 0}));
  set_rule(*disk, bytes.size());
  blk::Counters counters;
  nbd::Shared shared{*loop, *disk, counters, exported(), {}, {}};
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) return;
  Fd client(fds[0]);
  bool ended = false;
  nbd::Connection connection(shared, Fd(fds[1]), 1, [&](nbd::Connection*) { ended = true; });
  if (!connection.start()) return;
  // GO first, so that most of the input is spent on requests.
  constexpr char k_go[] = "\0\0\0\3IHAVEOPT\0\0\0\10\0\0\0\0IHAVEOPT\0\0\0\7\0\0\0\6\0\0\0\0\0\0";
  std::string all = bytes.size() % 4 == 0 ? std::string() : std::string(k_go, sizeof k_go - 1);
  all += bytes;
  char sink[65536];
  for (size_t at = 0; at < all.size();) {
    const ssize_t n = send(client.get(), all.data() + at, all.size() - at, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) break;
    at += n > 0 ? static_cast<size_t>(n) : 0;
    static_cast<void>(loop->run_once(0));
    while (recv(client.get(), sink, sizeof sink, 0) > 0) {
    }
  }
  client.reset();
  for (int i = 0; i < 10 && !ended; ++i) static_cast<void>(loop->run_once(0));
  if (!ended || counters.in_flight() != 0) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  handshake(bytes);
  serve(bytes);
  return 0;
}
