// SPDX-License-Identifier: MIT
// Our own vhost-user server for the tests, in a thread of its own over a stack that they choose,
// with an NBD server over the same stack beside it: what is true of one front end can be asked of
// the other. And a Rig: the server, a driver that is attached to it, and the block device over the
// driver's first queue. The test's thread owns all of it; whatever is the server's is only touched
// inside on(), which runs on the server's loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "../conform/loop_thread.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "driver/blk.hpp"
#include "driver/driver.hpp"
#include "front/nbd/server.hpp"
#include "front/vhost/greeter.hpp"
#include "front/vhost/server.hpp"

namespace pv::test::vhost {

// The value, or the end of the test with the error's words.
template <class T>
T must(Result<T> result) {
  INFO((result ? std::string() : result.error().message));
  REQUIRE(result);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Served {
  uint64_t size = 8 << 20;
  bool file = false;                     // a file at the bottom, else memory
  std::vector<std::string> layers = {};  // as --layer takes them, outermost first
  std::string serial = "serial of twenty byt";
  bool read_only = false;
  uint32_t sector_size = 512;
  blk::DiscardBehaviour discard = blk::DiscardBehaviour::zeroes;
  bool greeted = false;  // clients are handed over by a Greeter
};

class OurServer {
 public:
  explicit OurServer(const Served& served = {});
  ~OurServer();
  OurServer(const OurServer&) = delete;
  OurServer& operator=(const OurServer&) = delete;

  std::string socket() const { return dir_.path("vhost"); }
  std::string nbd_socket() const { return dir_.path("nbd"); }
  std::string image() const { return dir_.path("image"); }

  // Runs `work` on the server's loop and waits for its end.
  void on(const std::function<void()>& work) { thread_->on(work); }
  Result<json> control(const json& request);  // such as fault.add
  // Rules from the text of their JSON.
  void add_rule(const char* rule);
  void clear_rules();
  json counters();
  json backend();  // what the back end tells of itself
  size_t connections();
  void resize(uint64_t size);
  // What is stored, past all layers' doors: through the stack, as a request of the host.
  std::string content(uint64_t offset, uint64_t length);
  FailingDisk& failing() { return *failing_; }  // its atomics are free to all
  // Inside on() only.
  pv::vhost::Server& server() { return *server_; }

  // Drops the vhost-user server as if it were killed, and starts another one over the same disk.
  // Nothing may be in flight at the disk.
  void replace();

 private:
  void make_stack(const Served& served);
  void listen();
  Fd entrance();

  TempDir dir_;
  std::string serial_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<blk::AsyncIo> io_;
  std::unique_ptr<blk::Opener> opener_;
  std::unique_ptr<blk::Disk> disk_;
  FailingDisk* failing_ = nullptr;
  blk::Counters counters_;
  bool greeted_ = false;
  Fd door_;
  std::unique_ptr<pv::vhost::Greeter> greeter_;  // stays when the server is replaced
  std::unique_ptr<pv::vhost::Server> server_;
  std::unique_ptr<nbd::Server> nbd_;
  std::unique_ptr<LoopThread> thread_;
};

// A server and a driver that is attached to it.
struct Rig {
  explicit Rig(const Served& served = {}, const Options& options = {});

  BlkReply read(uint64_t sector, uint32_t bytes) { return must(blk->read(sector, bytes)); }
  BlkReply write(uint64_t sector, std::string_view bytes) {
    return must(blk->write(sector, bytes));
  }
  BlkReply run(const BlkRequest& request) { return must(blk->run(request)); }
  // Whether the server still does what it should.
  void check_well();
  // As after a reboot: with empty rings, on a connection of its own.
  void attach_anew();

  uint64_t seed = test_seed();
  Rng rng{seed};
  OurServer ours;
  std::unique_ptr<Driver> driver;
  std::optional<Blk> blk;
};

// What has changed between two looks at the counters, by their paths ("read/bytes").
using Changes = std::map<std::string, int64_t>;
Changes changes(const json& before, const json& after);

// Open descriptors of this process.
size_t open_descriptors();

}  // namespace pv::test::vhost
