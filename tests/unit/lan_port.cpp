// SPDX-License-Identifier: MIT
// If this fails, the sockets of a lan's ports do: a VM that sends garbage or does not read takes
// others down with it, a VM that comes back is not let in; or members get addresses that they did
// not have before.
#include <fcntl.h>
#include <set>
#include <sys/socket.h>

#include "../catch.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/socket.hpp"
#include "lan/port.hpp"
#include "lan/server.hpp"
#include "vm/lan/state.hpp"

using namespace pv;
using namespace pv::lan;

namespace {

struct PortRig {
  std::string dir;
  std::unique_ptr<Loop> loop = std::move(*Loop::create());
  Switch lan{system_clock(), *loop};
  std::vector<std::unique_ptr<Port>> ports;

  PortRig() {
    char pattern[] = "/tmp/pv-lan.XXXXXX";
    dir = mkdtemp(pattern);
    for (PortId id : {1, 2}) ports.push_back(std::move(*Port::open(*loop, lan, id, path(id))));
  }
  ~PortRig() {
    ports.clear();
    remove_tree(dir);
  }
  std::string path(PortId id) const { return dir + "/" + std::to_string(id); }
  Fd connect(PortId id) {
    Fd fd = std::move(*connect_unix(path(id), Deadline::in_ms(1000)));
    turn();
    return fd;
  }
  void turn() {
    for (int i = 0; i < 8; ++i) REQUIRE(loop->run_once(0));
  }
};

std::string on_wire(const std::string& frame) {
  return length_prefix(frame.size()) + frame;
}

const std::string k_frame = std::string(6, '\xff') + std::string("\x52\x54\0\0\0\1\x08\0hello", 13);

void put(const Fd& fd, const std::string& bytes) {
  REQUIRE(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
}

std::string take(const Fd& fd) {
  std::string bytes(1 << 16, '\0');
  const ssize_t n = recv(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  return bytes.substr(0, n > 0 ? static_cast<size_t>(n) : 0);
}

}  // namespace

TEST_CASE("lan: frames go from socket to socket, and one that comes back is let in", "[lan]") {
  PortRig rig;
  const Fd a = rig.connect(1);
  Fd b = rig.connect(2);
  put(a, on_wire(k_frame));
  rig.turn();
  CHECK(take(b) == on_wire(k_frame));
  b = rig.connect(2);  // the old connection has not been closed by its owner yet
  put(a, on_wire(k_frame));
  rig.turn();
  CHECK(take(b) == on_wire(k_frame));
  b.reset();
  rig.turn();
  CHECK_FALSE(rig.ports[1]->connected());
  put(a, on_wire(k_frame));
  rig.turn();
  CHECK(rig.ports[0]->connected());
}

TEST_CASE("lan: a stream out of step is hung up on, the others go on", "[lan]") {
  PortRig rig;
  const Fd a = rig.connect(1), b = rig.connect(2);
  put(a, "GET / HTTP/1.1\r\n\r\n");
  rig.turn();
  CHECK_FALSE(rig.ports[0]->connected());
  CHECK(rig.ports[1]->connected());
  const Fd again = rig.connect(1);
  put(again, on_wire(k_frame));
  rig.turn();
  CHECK(take(b) == on_wire(k_frame));
}

TEST_CASE("lan: who does not read loses whole frames, and memory stays bounded", "[lan]") {
  PortRig rig;
  const Fd a = rig.connect(1), b = rig.connect(2);
  const std::string large = on_wire(k_frame + std::string(50000, 'x'));
  for (int i = 0; i < 200; ++i) {
    put(a, large);
    rig.turn();
  }
  const PortCounters counters = rig.lan.counters(2);
  CHECK(counters.slow_receiver > 100);
  CHECK(counters.frames_out + counters.slow_receiver == 200);
  std::string got;
  for (std::string some = take(b); !some.empty(); some = take(b)) {
    got += some;
    rig.turn();
  }
  CHECK(got.size() == counters.frames_out * large.size());
}

TEST_CASE("lan: subnets and addresses of cards depend on names only", "[lan]") {
  CHECK(*choose_subnet("net", {}) == *choose_subnet("net", {}));
  CHECK(*choose_subnet("net", {}) != *choose_subnet("ten", {}));
  std::vector<uint32_t> taken;
  for (int i = 0; i < 300; ++i) {
    const uint32_t subnet = *choose_subnet("net", taken);
    CHECK(subnet >> 24 == 10);
    CHECK((subnet >> 16 & 0xff) != 0);
    CHECK((subnet & 0xff) == 0);
    taken.push_back(subnet);
  }
  CHECK(std::set<uint32_t>(taken.begin(), taken.end()).size() == 300);
  LanState state;
  const std::string mac = state.mac_for("net", "a");
  CHECK(mac.substr(0, 9) == "52:54:00:");
  CHECK(mac == state.mac_for("net", "a"));
  CHECK(mac != state.mac_for("net", "b"));
  CHECK(mac != state.mac_for("ten", "a"));
  state.members.push_back({"other", "s", "/d", 1, mac, {}});
  CHECK(mac != state.mac_for("net", "a"));
}

TEST_CASE("lan: a VM that comes back has its number, until nobody else can have one", "[lan]") {
  LanState state;
  const auto join = [&](const std::string& vm) {
    const PortId port = *state.port_for(vm);
    state.ports[vm] = port;
    state.members.push_back({vm, "s", "/d", port, "", {}});
    return port;
  };
  CHECK(join("a") == 1);
  CHECK(join("b") == 2);
  state.members.erase(state.members.begin());
  CHECK(join("c") == 3);
  CHECK(join("a") == 1);
  state.members.erase(state.members.begin());  // b
  for (PortId i = 4; i <= k_max_port; ++i) CHECK(join("v" + std::to_string(i)) == i);
  CHECK(join("last") == 2);
  CHECK_FALSE(state.port_for("b"));
}

TEST_CASE("lan: a link's settings survive being written down", "[lan]") {
  const LinkSettings link{false, 1, 2, 0.25, UINT64_MAX};
  const LinkSettings back = link_from_json(link_to_json(link));
  CHECK_FALSE(back.up);
  CHECK(back.latency_ns == 1);
  CHECK(back.jitter_ns == 2);
  CHECK(back.loss == 0.25);
  CHECK(back.seed == UINT64_MAX);
}
