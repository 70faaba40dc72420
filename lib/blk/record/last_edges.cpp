// SPDX-License-Identifier: MIT
#include "blk/record/last_edges.hpp"

#include <algorithm>
#include <memory>

#include "base/loop.hpp"
#include "blk/cow/base.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_patience_ns = 2 * k_ns_per_s;

struct Edges {
  struct Edge {
    std::string bytes;
    iovec piece{};
    Request request;
  };
  Edge first, last;
  int missing = 2;
  bool failed = false;
  Loop* waiting = nullptr;

  void read(Disk& disk, Edge& edge, uint64_t offset, uint64_t length) {
    edge.bytes.resize(length);
    edge.piece = {edge.bytes.data(), edge.bytes.size()};
    edge.request.op = Op::read;
    edge.request.flags = k_internal;
    edge.request.offset = offset;
    edge.request.length = length;
    edge.request.data = &edge.piece;
    edge.request.segments = 1;
    edge.request.owner = this;
    edge.request.done = [](Request& request, int error) {
      auto& edges = *static_cast<Edges*>(request.owner);
      edges.failed = edges.failed || error != 0;
      if (--edges.missing == 0 && edges.waiting != nullptr) edges.waiting->stop();
    };
    disk.submit(edge.request);
  }

  void wait(const Env& env) {
    if (missing == 0 || env.loop == nullptr) return;
    waiting = env.loop;
    bool late = false;
    const TimerId timer = env.timers.after(k_patience_ns, [&] {
      late = true;
      waiting->stop();
    });
    while (missing != 0 && !late && waiting->run()) continue;
    waiting = nullptr;
    env.timers.cancel(timer);
  }
};

}  // namespace

std::optional<uint64_t> last_edges(Disk& disk, const Env& env) {
  auto edges = std::make_unique<Edges>();
  const uint64_t size = disk.geometry().size, n = std::min(size, k_base_edge);
  edges->read(disk, edges->first, 0, n);
  edges->read(disk, edges->last, size - n, n);
  edges->wait(env);
  if (edges->missing !=
      0) {  // the memory is that of the requests, as long as they are on their way
    static_cast<void>(edges.release());
    return std::nullopt;
  }
  if (edges->failed) return std::nullopt;
  return edges_hash(edges->first.bytes, edges->last.bytes);
}

}  // namespace pv::blk
