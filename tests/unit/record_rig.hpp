// SPDX-License-Identifier: MIT
// A disk in memory below a record layer, which can hold its requests back and let them complete in
// any order, and the log that the layer writes.
#pragma once

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fstream>

#include "../catch.hpp"
#include "../conform/patience.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "blk/backend/memory.hpp"
#include "blk/record/reader.hpp"
#include "blk/registry.hpp"
#include "verify/log/replay.hpp"
#include "verify/log/requests.hpp"

namespace pv::test {

using namespace blk;

struct RecordRig {
  struct Gate final : Forward {
    using Forward::Forward;
    void submit(Request& request) override {
      if (hold && request.op != Op::read)
        held.push_back(&request);
      else
        pass(request);
    }
    void pass(Request& request) {
      if (request.op == Op::read ? bad_reads : error != 0)
        return request.done(request, request.op == Op::read ? EIO : error);
      lower().submit(request);
    }
    void let_go(size_t which) {
      Request* request = held.at(which);
      held.erase(held.begin() + static_cast<long>(which));
      pass(*request);
    }
    bool hold = false, bad_reads = false;
    int error = 0;
    std::vector<Request*> held;
  };

  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  FileOpener opener{*loop};
  Gate* gate = nullptr;
  std::unique_ptr<Disk> disk;
  std::vector<std::unique_ptr<Io>> all;

  // What the next disk holds; without it, it is blank.
  std::string before;

  std::string log() const { return dir.path("log"); }

  Result<> open(const std::string& more = "", uint64_t size = 1 << 20) {
    disk.reset();
    Geometry geometry;
    geometry.size = size;
    auto memory = *make_memory_disk(geometry);
    if (!before.empty()) {
      Io io(Op::write, 0, before.size());
      std::copy(before.begin(), before.end(), io.data.begin());
      memory->submit(io.request);
    }
    auto gated = std::make_unique<Gate>(std::move(memory));
    gate = gated.get();
    const std::vector<LayerSpec> layers = {*parse_layer("record:file=" + log() + more)};
    const Env env{system_clock(), *loop, loop.get(), fresh_seed(), &opener};
    TRY_ASSIGN(disk, build_stack(std::move(gated), layers, env, true));
    return {};
  }
  void close() { disk.reset(); }
  // Closed in order, and the next disk is this one.
  void put_away() {
    before = content();
    close();
  }

  Io& start(Op op, uint64_t offset = 0, uint64_t length = 0, uint32_t flags = 0, char fill = 'x') {
    Io& io = *all.emplace_back(std::make_unique<Io>(op, offset, length, flags));
    if (op == Op::write) io.data.assign(length, fill);
    disk->submit(io.request);
    return io;
  }
  int wait(Io& io) {
    run_until(*loop, [&] { return io.completions != 0; });
    return io.completions == 1 ? io.error : -2;
  }
  int run(Op op, uint64_t offset = 0, uint64_t length = 0, uint32_t flags = 0, char fill = 'x') {
    return wait(start(op, offset, length, flags, fill));
  }
  std::string content() {
    Io io(Op::read, 0, disk->geometry().size);
    disk->submit(io.request);
    return wait(io) == 0 ? io.bytes() : "";
  }
};

inline std::vector<verify::Logged> logged(const std::string& path) {
  auto reader = LogReader::open(path);
  INFO((reader ? "" : reader.error().message));
  REQUIRE(reader);
  verify::LogRequests requests(std::move(*reader));
  std::vector<verify::Logged> all;
  while (true) {
    const auto one = requests.next();
    REQUIRE(one);
    if (!*one) return all;
    all.push_back(**one);
  }
}

// The content of a blank disk in memory after a replay.
inline Result<std::string> replayed(const std::string& log, const verify::ReplayPlan& plan,
                                    const std::string& before, verify::Replayed* said = nullptr) {
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  Geometry geometry;
  geometry.size = before.size();
  TRY_ASSIGN(const std::unique_ptr<Disk> disk, make_memory_disk(geometry));
  Io first(Op::write, 0, before.size());
  std::copy(before.begin(), before.end(), first.data.begin());
  disk->submit(first.request);
  TRY_ASSIGN(const verify::Replayed done, verify::replay(log, *disk, *loop, plan));
  if (said != nullptr) *said = done;
  Io io(Op::read, 0, disk->geometry().size);
  disk->submit(io.request);
  return io.bytes();
}

inline std::string file_bytes(const std::string& path) {
  return *read_file(path, 1 << 30);
}
inline void put_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace pv::test
