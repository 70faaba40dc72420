// SPDX-License-Identifier: MIT
// If this fails, the ways on which data skips a copy (pages through a pipe, lent memory, writes
// that stay in the receive buffer) deliver something else than the plain way would.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/socket.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/backend/window.hpp"
#include "blk/registry.hpp"
#include "front/nbd/protocol.hpp"
#include "front/nbd/server.hpp"
#include "nbd_bytes.hpp"

using namespace pv;
using namespace pv::nbd;
using namespace pv::test;

namespace {

constexpr uint64_t k_loans_size = 4 << 20;
constexpr size_t k_header = 16;  // of a simple reply

// A server over a file or memory, and a raw socket to it, both on one loop. Simple replies.
struct LoansWire {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  std::unique_ptr<blk::AsyncIo> io = *blk::AsyncIo::create(*loop);
  std::unique_ptr<blk::Disk> disk;
  blk::Counters counters;
  std::unique_ptr<Server> server;
  Fd file, client;

  explicit LoansWire(const char* backend, std::vector<blk::LayerSpec> layers = {}) {
    blk::Geometry geometry;
    geometry.size = k_loans_size;
    file.reset(open(dir.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(file.get(), k_loans_size) == 0);
    auto bottom = std::string(backend) == "memory"
                      ? *blk::make_memory_disk(geometry)
                      : blk::make_file_disk(Fd(dup(file.get())), geometry, *io);
    disk = *blk::build_stack(std::move(bottom), layers, {system_clock(), *loop, loop.get(), 0});
    server = std::make_unique<Server>(*loop, *listen_unix(dir.path("s")), *disk, counters,
                                      Export{"disk", "", geometry});
    REQUIRE(server->start());
    connect();
  }
  void connect() {
    client = *connect_unix(dir.path("s"), Deadline::in_ms(5000));
    fcntl(client.get(), F_SETFL, O_NONBLOCK);
    say(be(3, 4) + be(k_option_magic, 8) + be(k_opt_go, 4) + be(6, 4) + std::string(6, '\0'));
    for (int i = 0; i < 4; ++i) spin();
    while (!take().empty()) spin();
  }
  void spin() { REQUIRE(loop->run_once(0)); }
  void say(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size(); spin()) {
      const ssize_t n = send(client.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return;
      if (n > 0) at += static_cast<size_t>(n);
    }
  }
  std::string take() {
    std::string out;
    char chunk[65536];
    for (ssize_t n; (n = recv(client.get(), chunk, sizeof chunk, 0)) > 0; spin())
      out.append(chunk, static_cast<size_t>(n));
    return out;
  }
  // The answers, whole, however they come.
  std::string wait_for(size_t bytes) {
    std::string out;
    for (const Deadline deadline = Deadline::in_ms(10'000); out.size() < bytes && !gone();) {
      REQUIRE_FALSE(deadline.passed());
      REQUIRE(loop->run_once(1));
      out += take();
    }
    return out;
  }
  bool gone() {
    char byte;
    return recv(client.get(), &byte, 1, MSG_PEEK) == 0;
  }
  void ask(uint16_t command, uint64_t cookie, uint64_t offset, size_t length,
           const std::string& data = "") {
    say(be(k_request_magic, 4) + be(0, 2) + be(command, 2) + be(cookie, 8) + be(offset, 8) +
        be(length, 4) + data);
  }
  std::string read(uint64_t offset, size_t length) {
    ask(k_cmd_read, 7, offset, length);
    const std::string answer = wait_for(k_header + length);
    return answer.size() < k_header ? "" : answer.substr(k_header);
  }
  void fill(const std::string& content) {
    REQUIRE(pwrite(file.get(), content.data(), content.size(), 0) ==
            static_cast<ssize_t>(content.size()));
  }
};

const std::vector<blk::LayerSpec> k_slow = {{"delay", {{"ms", "1"}}}};

}  // namespace

TEST_CASE("reads of every size and alignment are the same through pipes, mappings and copies",
          "[nbd][loans]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  const std::string content = random_bytes(rng, k_loans_size);
  for (const char* backend : {"file", "memory"}) {
    LoansWire wire(backend);
    if (std::string(backend) == "file")
      wire.fill(content);
    else
      for (uint64_t at = 0; at < k_loans_size; at += 1 << 20) {
        wire.ask(k_cmd_write, 1, at, 1 << 20, content.substr(at, 1 << 20));
        REQUIRE(wire.wait_for(k_header).size() == k_header);
      }
    for (const size_t length :
         {512, 4096, 15'872, 16'384, 65'536, 100'352, 262'144, 266'240, 266'752, 1'048'576})
      for (int i = 0; i < 6; ++i) {
        const uint64_t offset = rng.below((k_loans_size - length) / 512 + 1) * 512;
        INFO(backend << " " << offset << " " << length);
        CHECK(wire.read(offset, length) == content.substr(offset, length));
      }
  }
}

TEST_CASE("more large reads at once than there are pipes, and a client that reads late",
          "[nbd][loans]") {
  Rng rng(11);
  const std::string content = random_bytes(rng, k_loans_size);
  for (const auto& layers : {std::vector<blk::LayerSpec>{}, k_slow}) {
    LoansWire wire("file", layers);
    wire.fill(content);
    constexpr size_t k_reads = 60, k_length = 131'072;
    std::string wanted;
    for (size_t i = 0; i < k_reads; ++i) {
      wire.ask(k_cmd_read, i, i * 4096, k_length);
      wanted +=
          be(k_simple_reply_magic, 4) + be(0, 4) + be(i, 8) + content.substr(i * 4096, k_length);
    }
    CHECK((wire.wait_for(wanted.size()) == wanted));
  }
}

TEST_CASE("an image that is cut from outside reads as zeroes, at worst after a new connection",
          "[nbd][loans]") {
  Rng rng(12);
  for (const size_t length : {size_t{4096}, size_t{131'072}}) {
    LoansWire wire("file");
    wire.fill(random_bytes(rng, k_loans_size));
    CHECK(wire.read(k_loans_size - length, length).size() == length);
    REQUIRE(ftruncate(wire.file.get(), 4096) == 0);
    std::string got = wire.read(k_loans_size - length, length);
    if (wire.gone()) {
      wire.connect();
      got = wire.read(k_loans_size - length, length);
    }
    CHECK((got == std::string(length, '\0')));
  }
}

TEST_CASE("reading holes through the server allocates nothing in a sparse image", "[nbd][loans]") {
  LoansWire wire("file");
  for (uint64_t at = 0; at < k_loans_size; at += 65'536) wire.read(at, 65'536);
  wire.ask(k_cmd_write, 1, 0, 1 << 20, std::string(1 << 20, 'x'));
  REQUIRE(wire.wait_for(k_header).size() == k_header);
  CHECK((wire.read(0, 4096) == std::string(4096, 'x')));
  wire.ask(k_cmd_trim, 2, 0, 1 << 20);
  REQUIRE(wire.wait_for(k_header).size() == k_header);
  for (uint64_t at = 0; at < k_loans_size; at += 4096)
    CHECK((wire.read(at, 4096) == std::string(4096, '\0')));
  struct stat st {};
  REQUIRE(fstat(wire.file.get(), &st) == 0);
  CHECK(st.st_blocks == 0);
}

TEST_CASE("writes that wait keep their data while more comes in behind them", "[nbd][loans]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (const auto& layers : {std::vector<blk::LayerSpec>{}, k_slow}) {
    LoansWire wire("file", layers);
    std::string content(k_loans_size, '\0');
    size_t writes = 0;
    for (uint64_t at = 0; at < k_loans_size; ++writes) {
      const size_t length = std::min<uint64_t>(512 * (1 + rng.below(rng.below(9) == 0 ? 400 : 16)),
                                               k_loans_size - at);
      const std::string data = random_bytes(rng, length);
      wire.ask(k_cmd_write, writes, at, length, data);
      content.replace(at, length, data);
      at += length;
    }
    CHECK(wire.wait_for(writes * k_header).size() == writes * k_header);
    std::string now(k_loans_size, '\0');
    REQUIRE(pread(wire.file.get(), now.data(), k_loans_size, 0) ==
            static_cast<ssize_t>(k_loans_size));
    CHECK((now == content));
  }
}

TEST_CASE("a window shows what is in memory and no hole", "[blk][loans]") {
  TempDir dir;
  Fd fd(open(dir.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(ftruncate(fd.get(), 4 << 20) == 0);
  REQUIRE(pwrite(fd.get(), std::string(1 << 20, 'x').data(), 1 << 20, 1 << 20) == 1 << 20);
  const auto window = blk::Window::open(fd.get(), 4 << 20);
  REQUIRE(window);
  CHECK(window->look(0, 4096) == nullptr);
  const char* there = window->look((1 << 20) + 512, 4096);
  REQUIRE(there != nullptr);
  CHECK(std::string(there, 4096) == std::string(4096, 'x'));
  CHECK(window->look((1 << 20) - 512, 1024) == nullptr);
  CHECK(window->look(4 << 20, 512) == nullptr);
  CHECK(window->look(UINT64_MAX - 511, 512) == nullptr);
  CHECK_FALSE(blk::Window::open(-1, 4096));
}
