// SPDX-License-Identifier: MIT
// A server with a fault layer and raw sockets to it, its disk in memory or in a file, and the right
// answers to compare with.
#pragma once

#include <fcntl.h>

#include "blk/backend/file.hpp"
#include "fault_rig.hpp"
#include "nbd_rig.hpp"

namespace pv::test {

constexpr size_t k_length = 8192;
constexpr uint64_t k_cookie = 7;

inline const std::vector<LayerSpec>& fault_alone() {
  static const std::vector<LayerSpec> layers = {{"fault", {}}};
  return layers;
}

// Numbers as they come off a socket: those without a sign are unsigned.
inline Result<json> add_rule(Disk& disk, const json& rule) {
  return disk.control(*parse_json(to_line({{"op", "fault.add"}, {"rule", rule}})));
}

// A server whose disk can be held back below its fault layer, in memory or in a file: reads are
// lent as memory or, large ones, as pages in a pipe.
struct Faulty : Wire {
  std::unique_ptr<blk::AsyncIo> io;
  Fd file;
  Gate* gate = nullptr;
  FailingDisk* failing = nullptr;
  std::string content;

  explicit Faulty(bool in_file = false, const std::vector<LayerSpec>& layers = fault_alone()) {
    Geometry geometry;
    geometry.size = 1 << 20;
    std::unique_ptr<Disk> bottom = *make_memory_disk(geometry);
    if (in_file) {
      io = *blk::AsyncIo::create(*loop);
      file.reset(open(dir.path("image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      REQUIRE(ftruncate(file.get(), 1 << 20) == 0);
      bottom = make_file_disk(Fd(dup(file.get())), geometry, *io);
    }
    auto fails = std::make_unique<FailingDisk>(std::move(bottom));
    failing = fails.get();
    auto gated = std::make_unique<Gate>(std::move(fails));
    gate = gated.get();
    server.reset();
    disk = *build_stack(std::move(gated), layers, {system_clock(), *loop, loop.get(), 0}, true);
    unlink(dir.path("s").c_str());
    server = std::make_unique<Server>(*loop, *listen_unix(dir.path("s")), *disk, counters,
                                      Export{"disk", "a disk", geometry});
    REQUIRE(server->start());
    Rng rng(5);
    content = random_bytes(rng, 1 << 20);
    Fd fd = open_client(false);
    ask(fd, request(k_cmd_write, 1, 0, 1 << 20, content), 16);
  }
  Faulty(const Faulty&) = delete;
  Faulty& operator=(const Faulty&) = delete;
  ~Faulty() {
    gate->open();
    const Deadline deadline = Deadline::in_ms(20'000);
    while (counters.in_flight() != 0 && !deadline.passed()) REQUIRE(loop->run_once(1));
  }

  void add(const json& what, const json& match = json::object(),
           const json& when = {{"times", 1}}) {
    const json rule = {{"match", match}, {"when", when}, {"do", what}};
    const auto added = add_rule(*disk, rule);
    if (!added) FAIL(added.error().message);
  }
  json events() { return *read_journal(*disk->control({{"op", "fault.journal"}}), 0, SIZE_MAX); }
  Fd open_client(bool structured) {
    Fd fd = connect();
    say(fd, go(structured));
    return fd;
  }
  // Says it and waits until so many bytes have come, or the end; then takes what else is there.
  std::string ask(Fd& fd, const std::string& bytes, size_t wanted) {
    std::string out = say(fd, bytes);
    const Deadline deadline = Deadline::in_ms(20'000);
    while (out.size() < wanted && !closed(fd) && !deadline.passed()) {
      REQUIRE(loop->run_once(1));
      out += take(fd);
    }
    spin();
    return out + take(fd);
  }
  bool ended(Fd& fd) {
    const Deadline deadline = Deadline::in_ms(20'000);
    while (!closed(fd) && !deadline.passed()) REQUIRE(loop->run_once(1));
    return closed(fd);
  }
  // A client that comes now gets what was written.
  void check_well() {
    Fd fd = open_client(false);
    const std::string answer = ask(fd, request(k_cmd_read, 9, 0, k_length), 16 + k_length);
    CHECK((answer == simple(9) + content.substr(0, k_length)));
    CHECK_FALSE(closed(fd));
  }

  static std::string simple(uint64_t cookie, uint32_t error = 0) {
    return be(k_simple_reply_magic, 4) + be(error, 4) + be(cookie, 8);
  }
  static std::string chunk(uint16_t flags, uint16_t type, const std::string& payload) {
    return be(k_structured_reply_magic, 4) + be(flags, 2) + be(type, 2) + be(k_cookie, 8) +
           be(payload.size(), 4) + payload;
  }
  // The right answer to a read at `offset`.
  std::string read_answer(bool structured, uint64_t offset = 0, size_t length = k_length) const {
    const std::string data = content.substr(offset, length);
    return structured ? chunk(1, k_reply_offset_data, be(offset, 8) + data)
                      : simple(k_cookie) + data;
  }
};

inline json disconnect(const char* at) {
  return {{"kind", "disconnect"}, {"at", at}};
}
inline json cut_reply(uint64_t bytes) {
  return {{"kind", "disconnect"}, {"at", "reply"}, {"bytes", bytes}};
}
inline json violate(const char* what) {
  return {{"kind", "violate"}, {"what", what}};
}
inline std::string read_request(uint64_t offset = 0, size_t length = k_length) {
  return request(k_cmd_read, k_cookie, offset, static_cast<uint32_t>(length));
}

}  // namespace pv::test
