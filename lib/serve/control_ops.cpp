// SPDX-License-Identifier: MIT
#include "serve/control_ops.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::serve {

namespace {

// As many extents as fit in a line of some hundred kilobytes; whoever asks goes on where they end.
constexpr size_t k_max_map_extents = 4096;

json extents_json(uint64_t at, const std::vector<blk::Extent>& extents) {
  json rows = json::array();
  for (const blk::Extent& extent : extents) {
    if (rows.size() == k_max_map_extents) break;
    rows.push_back({{"offset_bytes", at},
                    {"length_bytes", extent.length},
                    {"hole", (extent.flags & blk::k_hole) != 0},
                    {"zero", (extent.flags & blk::k_zero) != 0}});
    at += extent.length;
  }
  return rows;
}

}  // namespace

// One host request. Keeps itself alive until the disk has completed it.
struct ControlOps::HostIo {
  explicit HostIo(Reply r) : reply(std::move(r)) {}
  blk::Request request;
  blk::Injected injected;
  iovec segment{};
  std::string data;
  std::vector<blk::Extent> extents;
  std::string host;
  Reply reply;
  ControlOps* owner = nullptr;
  std::shared_ptr<HostIo> self;
  // A write that does not cover whole sectors: the edges are read first.
  uint64_t asked_offset = 0;
  uint64_t asked_length = 0;
  std::string payload;
  bool merging = false;
  bool raw_reply = false;
};

uint64_t deadline_ns_of(const json& request) {
  constexpr uint64_t k_default_ms = 30'000;
  constexpr uint64_t k_max_ms = uint64_t{1000} * 24 * 3600 * 365;
  const uint64_t ms = std::min(get_u64(request, "timeout_ms", k_default_ms), k_max_ms);
  return system_clock().now_ns() + ms * k_ns_per_ms;
}

Error io_error(blk::Op op, int error, const blk::Injected& injected) {
  if (error == ERANGE && injected.rule.empty())
    return Error(Code::out_of_range,
                 fmt::format("{} reaches past the end of the disk", blk::op_name(op)));
  if (error == EROFS && injected.rule.empty())
    return Error(Code::read_only, "the disk is read-only", EROFS);
  if (error == EBADE && injected.rule.empty())
    return Error(Code::reservation_conflict,
                 fmt::format("{}: another host holds a reservation", blk::op_name(op)), EBADE);
  if (error == ECANCELED && injected.rule.empty())
    return Error(Code::aborted, fmt::format("{}: aborted by a preempt-and-abort", blk::op_name(op)),
                 ECANCELED);
  if ((error == ENODATA || error == EILSEQ) && injected.rule.empty()) {
    const char* detail = error == EILSEQ       ? "guard"
                         : op == blk::Op::read ? "unrecovered_read"
                                               : "write_fault";
    return Error(Code::medium, fmt::format("{}: medium error ({})", blk::op_name(op), detail),
                 error)
        .with("detail", detail);
  }
  if (error == EINVAL && injected.rule.empty())
    return Error(Code::invalid, fmt::format("{} is not aligned to sectors", blk::op_name(op)),
                 EINVAL);
  Error result(Code::io,
               fmt::format("{}: {} ({})", blk::op_name(op), errno_name(error),
                           strerrordesc_np(error) ? strerrordesc_np(error) : "?"),
               error);
  if (injected.rule.empty()) return result.with("injected", false);
  result.message += fmt::format(", injected by rule '{}'", injected.rule);
  return result.with("injected", true)
      .with("rule", injected.rule)
      .with("phase", blk::phase_name(injected.phase));
}

void ControlOps::handle(const json& request, std::string raw, Reply reply) {
  const std::string op = get_string(request, "op");
  if (op == "info") return reply(json{{"disk", info_()}});
  if (op == "stats") {
    json stats = counters_.to_json();
    json layers;
    disk_.inspect(layers);
    stats["layers"] = layers;
    return reply(json{{"stats", stats}});
  }
  if (op == "settle") return settle(reply);
  blk::Op kind;
  if (!blk::op_from_name(op, kind)) return handle_other(request, reply);
  if (!paused_) return start_io(kind, request, std::move(raw), std::move(reply));
  waiting_.push_back([this, kind, request, raw = std::move(raw), reply = std::move(reply)] {
    start_io(kind, request, raw, reply);
  });
}

// A flush of our own: what layers still have to write, repairs and late writes, is on the disk
// then.
void ControlOps::settle(const Reply& reply) {
  auto io = std::make_shared<HostIo>(reply);
  io->owner = this;
  io->self = io;
  io->request.op = blk::Op::flush;
  io->request.flags = blk::k_internal;
  io->request.owner = io.get();
  io->request.done = &ControlOps::done;
  submit(io);
}

bool ControlOps::has_fault_layer() const {
  json layers;
  disk_.inspect(layers);
  return find(layers, "faults") != nullptr;
}

void ControlOps::handle_other(const json& request, const Reply& reply) {
  auto answer = disk_.control(request);
  if (!answer && answer.error().code == Code::unsupported &&
      get_string(request, "op").rfind("fault.", 0) == 0 && !has_fault_layer())
    return reply(fail(Code::not_mediated, "the disk is served without a fault layer (--no-fault)"));
  if (!answer && answer.error().code == Code::unsupported &&
      get_string(request, "op").rfind("reserve.", 0) == 0)
    return reply(
        fail(Code::unsupported, "the disk has no reservations (--layer reserve serves them)"));
  if (answer && get_bool(request, "with_disk")) (*answer)["disk"] = info_();
  reply(std::move(answer));
}

void ControlOps::resume() {
  paused_ = false;
  for (const auto& begin : std::exchange(waiting_, {})) begin();
}

void ControlOps::freeze() {
  pause();
  frozen_ = true;
}

void ControlOps::cut() {
  cut_ = true;
}

void ControlOps::thaw() {
  frozen_ = false;
  for (const auto& give : std::exchange(finished_, {})) give();
  cut_ = false;
  resume();
}

void ControlOps::start_io(blk::Op op, const json& request, std::string raw, Reply reply) {
  const uint64_t length = get_u64(request, "length_bytes");
  if ((op == blk::Op::read || op == blk::Op::write) && length > k_max_host_io)
    return reply(fail(Code::invalid, fmt::format("more than {} bytes at once", k_max_host_io)));
  if (op == blk::Op::write && raw.empty()) {
    auto bytes = base64_decode(get_string(request, "b64"));
    if (!bytes) return reply(fail(Code::invalid, "write: the data is not base64"));
    raw = std::move(*bytes);
  }
  if (op == blk::Op::write && raw.size() != length)
    return reply(fail(Code::invalid, "write: there is not as much data as was said"));
  std::string host = get_string(request, "host_key");
  if (!host.empty() && !check_name("host key", host))
    return reply(fail(Code::usage, "host_key is no name"));
  auto io = std::make_shared<HostIo>(std::move(reply));
  io->owner = this;
  io->self = io;
  io->asked_offset = get_u64(request, "offset_bytes");
  io->asked_length = length;
  io->payload = std::move(raw);
  io->raw_reply = get_bool(request, "raw");
  blk::Request& r = io->request;
  r.op = op;
  r.offset = io->asked_offset;
  r.length = length;
  r.injected = &io->injected;
  io->host = std::move(host);
  r.host = io->host;
  r.extents = op == blk::Op::map ? &io->extents : nullptr;
  r.flags = (get_bool(request, "fua") ? blk::k_fua : 0U) |
            (get_bool(request, "no_unmap") ? blk::k_no_unmap : 0U);
  r.owner = io.get();
  r.done = &ControlOps::done;
  const uint64_t sector = disk_.geometry().sector_size;
  const uint64_t size = disk_.geometry().size;
  const bool in_range = r.offset <= size && length <= size - r.offset;
  const bool ragged = (r.offset | length) % sector != 0;
  if (op == blk::Op::write && ragged && in_range && length != 0 && !disk_.geometry().read_only)
    return merge_edges(io);
  if (op == blk::Op::read) io->data.resize(length);
  if (op == blk::Op::write) io->data = std::move(io->payload);
  submit(io);
}

void ControlOps::submit(std::shared_ptr<HostIo> io) {
  blk::Request& r = io->request;
  if (r.op == blk::Op::read || r.op == blk::Op::write) {
    io->segment = {io->data.data(), io->data.size()};
    r.data = &io->segment;
    r.segments = 1;
  }
  ++in_flight_;
  if ((r.flags & blk::k_internal) == 0) counters_.started();
  disk_.submit(r);
}

// Reads the whole sectors around a ragged write, below every fault, so that only its own bytes
// change.
void ControlOps::merge_edges(std::shared_ptr<HostIo> io) {
  blk::Request& r = io->request;
  const uint64_t sector = disk_.geometry().sector_size;
  const uint64_t end = (io->asked_offset + io->asked_length + sector - 1) / sector * sector;
  r.offset = io->asked_offset / sector * sector;
  r.length = end - r.offset;
  r.op = blk::Op::read;
  r.flags |= blk::k_internal;
  io->data.resize(r.length);
  io->merging = true;
  submit(std::move(io));
}

void ControlOps::done(blk::Request& request, int error) {
  auto& io = *static_cast<HostIo*>(request.owner);
  io.owner->finish(io, error);
}

void ControlOps::finish(HostIo& io, int error) {
  blk::Request& r = io.request;
  --in_flight_;
  if ((r.flags & blk::k_internal) == 0) counters_.completed(r.op, r.length, error);
  if (io.merging && error == 0) {
    io.merging = false;
    std::memcpy(io.data.data() + (io.asked_offset - r.offset), io.payload.data(),
                io.payload.size());
    r.op = blk::Op::write;
    r.flags &= ~static_cast<uint32_t>(blk::k_internal);
    return submit(io.self);
  }
  const std::shared_ptr<HostIo> last = std::move(io.self);  // destroyed on return
  if (!frozen_) return answer(io, error);
  finished_.push_back([this, last, error] { answer(*last, error); });
}

void ControlOps::answer(HostIo& io, int error) {
  blk::Request& r = io.request;
  if (cut_) return io.reply(fail(Code::aborted, "the power of the disk was cut"));
  if (error != 0) return io.reply(fail(io_error(r.op, error, io.injected)));
  json answer = {{"offset_bytes", io.asked_offset}, {"length_bytes", io.asked_length}};
  if (r.op == blk::Op::write) answer["partial"] = r.length != io.asked_length;
  if (r.op == blk::Op::map) answer["extents"] = extents_json(r.offset, io.extents);
  if (r.op == blk::Op::read && io.raw_reply) return io.reply(std::move(answer), std::move(io.data));
  if (r.op == blk::Op::read) answer["b64"] = base64_encode(io.data);
  io.reply(std::move(answer));
}

}  // namespace pv::serve
