// SPDX-License-Identifier: MIT
// What tests of disks share: a seed that is printed and can be given, a temporary directory, a
// request that is waited for, and stacks over every back end ("benches").
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/rng.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/child.hpp"
#include "blk/disk.hpp"
#include "server_thread.hpp"

namespace pv::test {

// $PV_TEST_SEED, or a fresh one. Tests show it with SEED_INFO.
uint64_t test_seed();
#define SEED_INFO(seed) INFO("rerun with PV_TEST_SEED=" << (seed))

// A directory that is gone when the test ends; below $PV_TMP, or /dev/shm (tmpfs), or /tmp.
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
  std::string bytes() const { return std::string(data.data(), data.size()); }
};

std::string random_bytes(Rng& rng, size_t count);

// Stands right above the back end: fails what it is told to, and keeps a record of what has reached
// the back end and of what a flush or FUA has made stable there. Another thread may ask.
class FailingDisk final : public blk::Forward {
 public:
  using Forward::Forward;
  void submit(blk::Request& request) override;
  std::atomic<blk::Op> op = blk::Op::read;
  std::atomic<int> error = 0;

  void record();  // from now on, and from nothing
  // Whether writes or zeroes that are stable cover the whole range.
  bool stable(uint64_t offset, uint64_t length) const;
  size_t unstable() const;  // changes in flight, or completed and in no flush since
  size_t flushes() const;

 private:
  struct Range {
    uint64_t begin, end;
    uint64_t serial;  // of its completion
  };
  struct Flight {
    blk::Request child;
    blk::Request* parent = nullptr;
    FailingDisk* disk = nullptr;
    uint64_t submitted = 0;
  };
  void completed(Flight& flight, int with);

  std::atomic<bool> recording_ = false;
  blk::Pool<Flight> flights_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Range> dirty_, stable_;
  uint64_t serial_ = 0;
  size_t in_flight_ = 0;
  size_t flushes_ = 0;
};

std::vector<std::string> backend_names();  // memory, file, pool, nbd, qcow2, nbdkit

// What a layer makes of the geometry below it on purpose; everything else it must hand on.
enum Changes : uint32_t {
  k_new_size = 1,
  k_new_physical = 2,
  k_new_granularity = 4,
  k_new_discard = 8,
  k_new_fua = 16,
  k_new_read_only = 32,
  k_new_id = 64,
  k_no_resize = 128,  // refuses with Code::unsupported
};

// Where what is written to a stack ends up: all of it in the back end at its own address, some of
// it there, or none of it (an overlay).
enum class Below { same, other, never };

// The stacks that the suite goes through. One line in the table of stacks.cpp each.
struct StackRow {
  const char* name;
  std::vector<const char*> layers;  // as --layer takes them, outermost first; "@" is a fresh folder
  bool with_rule = false;           // a rule of the fault layer that changes nothing but the time
  std::vector<const char*> files = {};  // blank files in that folder, as large as the disk
  uint32_t changes = 0;                 // Changes, for a stack of one layer
  Below below = Below::same;
  uint64_t min_size = 0;  // of the back end; the suite leaves smaller ones out
  // Operations that a layer answers without the one of the same name below it, as a cache does.
  std::vector<blk::Op> decoupled = {};
  bool scrambled = false;  // what was never written is no zeroes: the bench zeroes it first
};
const std::vector<StackRow>& stacks();
const StackRow& stack_row(const std::string& name);
std::vector<std::string> stack_names();
// A key for layers that need one, as `key` in the folder.
void write_key(const TempDir& folder);

// One cell of the matrix. `front` is "host" (submits right into the stack), "nbd" or "vhost" (a
// server of ours in a thread, and a client of its kind).
struct Combination {
  std::string backend, stack, front;
};
// Every stack on memory and file and behind each front end, a few on the other back ends.
std::vector<Combination> combinations();

// Opens raw files, for layers that need some; without locks, which one process cannot hold twice.
class FileOpener final : public blk::Opener {
 public:
  // The images get this geometry, but for the size.
  explicit FileOpener(Loop& loop, const blk::Geometry& geometry = {})
      : loop_(loop), geometry_(geometry) {}
  Result<std::unique_ptr<blk::Disk>> image(const std::string& path, bool read_only,
                                           const std::string& key_file) override;
  Result<blk::AsyncIo*> async_io() override;

 private:
  Loop& loop_;
  blk::Geometry geometry_;
  std::unique_ptr<blk::AsyncIo> io_;
};

using WrapBottom = std::unique_ptr<blk::Disk> (*)(std::unique_ptr<blk::Disk> lower);

// A whole stack, audited, with what keeps it alive. `wrap` may put a disk on top of it.
class Bench {
 public:
  Bench(const std::string& backend, const std::string& stack, const blk::Geometry& geometry,
        WrapBottom wrap = nullptr, const std::string& front = "host")
      : Bench(backend, stack_row(stack), geometry, wrap, front) {}
  // `row` outlives the bench.
  Bench(const std::string& backend, const StackRow& row, const blk::Geometry& geometry,
        WrapBottom wrap, const std::string& front);
  ~Bench();

  blk::Disk& disk() { return *disk_; }
  FailingDisk& failing() { return *failing_; }
  Loop& loop() { return *loop_; }
  const StackRow& row() const { return row_; }
  const std::string& front() const { return front_; }  // "host", "nbd", "vhost"
  // Whether the front end's wire has such a request; one that it gives another meaning it has not.
  bool carries(const blk::Request& request) const;
  // What the front end makes of an errno.
  int seen(blk::Op op, int error) const;

  // Submits and waits; the request's errno.
  int run(Io& io);
  void wait(const std::vector<std::unique_ptr<Io>>& all);
  // A few rounds of the loop, for completions that should not come.
  void settle();

  std::string read(uint64_t offset, uint64_t length);
  int write(uint64_t offset, std::string_view bytes, uint32_t flags = 0);

 private:
  void serve(Loop& loop);
  std::unique_ptr<blk::Disk> bottom(const std::string& backend, const blk::Geometry& geometry,
                                    Loop& loop);
  std::unique_ptr<blk::Disk> stack(std::unique_ptr<blk::Disk> bottom, const blk::Geometry& geometry,
                                   Loop& loop);

  TempDir dir_;
  const StackRow& row_;
  std::unique_ptr<Loop> loop_;
  std::string front_;
  std::unique_ptr<Loop> front_loop_;  // of the stack, when that is behind a server
  std::unique_ptr<ServerThread> server_;
  std::unique_ptr<blk::AsyncIo> io_;
  std::unique_ptr<blk::Opener> opener_;
  std::unique_ptr<ServerThread> served_;
  std::unique_ptr<blk::Disk> disk_;
  FailingDisk* failing_ = nullptr;
};

// One thing that every stack must do. Adds what is wrong to `wrong`; nothing added: it holds.
using Wrongs = std::vector<std::string>;
struct Check {
  const char* name;
  void (*run)(Bench& bench, Rng& rng, Wrongs& wrong);
  // About requests that no wire carries, or only some do.
  enum On { everywhere, host_only, not_vhost } on = everywhere;
};
const std::vector<Check>& checks();  // all of them
const std::vector<Check>& durability_checks();

// Runs it and complains unless it ends with `wanted`, exactly once. Behind a front end
// the errno is what its wire makes of it, and what the wire cannot carry is left out.
void expect(Bench& bench, Io& io, int wanted, Wrongs& wrong);

constexpr uint64_t k_conform_size = (1 << 20) + 3 * 512;

}  // namespace pv::test
