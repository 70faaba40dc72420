// SPDX-License-Identifier: MIT
// What tests of disks share: a seed that is printed and can be given, a temporary directory, a
// request that is waited for, and stacks over every back end ("benches").
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/loop.hpp"
#include "base/rng.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/nbd/server.hpp"

namespace pv::test {

// $PV_TEST_SEED, or a fresh one. Tests show it with SEED_INFO.
uint64_t test_seed();
#define SEED_INFO(seed) INFO("rerun with PV_TEST_SEED=" << (seed))

// A directory that is gone when the test ends; below /dev/shm (tmpfs) where there is one.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string path(std::string_view name = "") const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// One request with its data in one piece, or in pieces of the given sizes. Counts completions.
struct Io {
  blk::Request request;
  blk::Injected injected;
  std::vector<char> data;
  std::vector<iovec> pieces;
  std::vector<blk::Extent> extents;
  int completions = 0;
  int error = -1;

  Io(blk::Op op, uint64_t offset, uint64_t length, uint32_t flags = 0);
  Io(const Io&) = delete;
  Io& operator=(const Io&) = delete;
  // Splits `data` into these pieces; what they leave over is one more.
  void split_into(const std::vector<size_t>& sizes);
  std::string bytes() const { return std::string(data.begin(), data.end()); }
};

std::string random_bytes(Rng& rng, size_t count);

// Fails what it is told to; stands right above the back end.
class FailingDisk final : public blk::Forward {
 public:
  using Forward::Forward;
  void submit(blk::Request& request) override {
    if (error != 0 && request.op == op) return request.done(request, error);
    lower().submit(request);
  }
  blk::Op op = blk::Op::read;
  int error = 0;
};

// An NBD server of ours in a thread of its own.
class ServerThread {
 public:
  ServerThread(const std::string& socket, std::unique_ptr<blk::Disk> disk);
  ~ServerThread();

 private:
  std::unique_ptr<Loop> loop_;
  Fd stop_;
  std::unique_ptr<blk::Disk> disk_;
  blk::Counters counters_;
  std::unique_ptr<nbd::Server> server_;
  std::thread thread_;
};

std::vector<std::string> backend_names();  // memory, file, pool, nbd

// The stacks that the suite goes through. One line in the table of support.cpp each.
struct StackRow {
  const char* name;
  std::vector<const char*> layers;  // as --layer takes them, outermost first; "@" is a fresh folder
  bool with_rule = false;           // a rule of the fault layer that changes nothing but the time
  // Whether the back end hears of everything, not of what is read again, or of reads only.
  enum Reach : uint8_t { all, caches, keeps } reach = all;
};
bool keeps_changes(const std::string& stack);
const std::vector<StackRow>& stacks();
std::vector<std::string> stack_names();

// Opens raw files, for layers that need some; without locks, which one process cannot hold twice.
class FileOpener final : public blk::Opener {
 public:
  explicit FileOpener(Loop& loop) : loop_(loop) {}
  Result<std::unique_ptr<blk::Disk>> image(const std::string& path, bool read_only) override;
  Result<blk::AsyncIo*> async_io() override;

 private:
  Loop& loop_;
  std::unique_ptr<blk::AsyncIo> io_;
};

using WrapBottom = std::unique_ptr<blk::Disk> (*)(std::unique_ptr<blk::Disk> lower);

// A whole stack, audited, with what keeps it alive. `wrap` may put a disk on top of it.
class Bench {
 public:
  Bench(const std::string& backend, const std::string& stack, const blk::Geometry& geometry,
        WrapBottom wrap = nullptr);
  ~Bench();

  blk::Disk& disk() { return *disk_; }
  FailingDisk& failing() { return *failing_; }
  StackRow::Reach reach() const { return reach_; }
  Loop& loop() { return *loop_; }

  // Submits and waits; the request's errno. Fails the process' patience after 20 s with -2.
  int run(Io& io);
  bool wait(const std::vector<std::unique_ptr<Io>>& all);
  // A few rounds of the loop, for completions that should not come.
  void settle();

  std::string read(uint64_t offset, uint64_t length);
  int write(uint64_t offset, std::string_view bytes, uint32_t flags = 0);

 private:
  TempDir dir_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ServerThread> server_;
  std::unique_ptr<blk::AsyncIo> io_;
  std::unique_ptr<blk::Opener> opener_;
  std::unique_ptr<blk::Disk> disk_;
  FailingDisk* failing_ = nullptr;
  StackRow::Reach reach_ = StackRow::all;
};

// One thing that every stack must do. Adds what is wrong to `wrong`; nothing added: it holds.
using Wrongs = std::vector<std::string>;
struct Check {
  const char* name;
  void (*run)(Bench& bench, Rng& rng, Wrongs& wrong);
};
const std::vector<Check>& checks();

constexpr uint64_t k_conform_size = (1 << 20) + 3 * 512;

}  // namespace pv::test
