// SPDX-License-Identifier: MIT
#include "serve/control_ops.hpp"

#include <cstring>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace pv::serve {

// One host request. Keeps itself alive until the disk has completed it.
struct ControlOps::HostIo {
  blk::Request request;
  blk::Injected injected;
  iovec segment{};
  std::string data;
  std::vector<blk::Extent> extents;
  Reply reply;
  ControlOps* owner = nullptr;
  std::shared_ptr<HostIo> self;
  // A write that does not cover whole sectors: the edges are read first.
  uint64_t asked_offset = 0;
  uint64_t asked_length = 0;
  std::string payload;
  bool merging = false;
};

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

void ControlOps::handle(const json& request, Reply reply) {
  const std::string op = get_string(request, "op");
  if (op == "info") return reply(json{{"disk", info_()}});
  if (op == "stats") {
    json stats = counters_.to_json();
    json layers;
    disk_.inspect(layers);
    stats["layers"] = layers;
    return reply(json{{"stats", stats}});
  }
  blk::Op kind;
  if (blk::op_from_name(op, kind)) return start_io(kind, request, std::move(reply));
  auto answer = disk_.control(request);
  if (!answer && answer.error().code == Code::unsupported && op.rfind("fault.", 0) == 0)
    return reply(fail(Code::not_mediated, "the disk is served without a fault layer (--no-fault)"));
  reply(std::move(answer));
}

void ControlOps::start_io(blk::Op op, const json& request, Reply reply) {
  auto io = std::make_shared<HostIo>();
  io->owner = this;
  io->self = io;
  io->reply = std::move(reply);
  const auto refuse = [&](Error error) {
    io->self.reset();
    io->reply(fail(std::move(error)));
  };
  const uint64_t length = get_u64(request, "length_bytes");
  if ((op == blk::Op::read || op == blk::Op::write) && length > k_max_host_io)
    return refuse(Error(Code::invalid, fmt::format("more than {} bytes at once", k_max_host_io)));
  io->asked_offset = get_u64(request, "offset_bytes");
  io->asked_length = length;
  blk::Request& r = io->request;
  r.op = op;
  r.offset = io->asked_offset;
  r.length = length;
  r.injected = &io->injected;
  r.extents = op == blk::Op::map ? &io->extents : nullptr;
  r.flags = get_bool(request, "fua") ? blk::k_fua : 0U;
  r.owner = io.get();
  r.done = &ControlOps::done;
  if (op == blk::Op::write) {
    auto bytes = base64_decode(get_string(request, "b64"));
    if (!bytes || bytes->size() != length)
      return refuse(Error(Code::invalid, "write: the data is not base64 of the stated length"));
    io->payload = std::move(*bytes);
  }
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
  if (error != 0) return io.reply(fail(io_error(r.op, error, io.injected)));
  json answer = {{"offset_bytes", io.asked_offset}, {"length_bytes", io.asked_length}};
  if (r.op == blk::Op::read) answer["b64"] = base64_encode(io.data);
  if (r.op == blk::Op::write) answer["partial"] = r.length != io.asked_length;
  if (r.op == blk::Op::map) {
    json rows = json::array();
    uint64_t at = r.offset;
    for (const blk::Extent& extent : io.extents) {
      rows.push_back({{"offset_bytes", at},
                      {"length_bytes", extent.length},
                      {"hole", (extent.flags & blk::k_hole) != 0},
                      {"zero", (extent.flags & blk::k_zero) != 0}});
      at += extent.length;
    }
    answer["extents"] = rows;
  }
  io.reply(answer);
}

}  // namespace pv::serve
