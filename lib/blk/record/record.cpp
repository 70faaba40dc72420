// SPDX-License-Identifier: MIT
// Writes down what changes the disk below, in a log of its own (blk/record/writer.hpp): each
// request when it is submitted and when it completes. A flush or a write with FUA is answered when
// the log up to it is in its file; a disk that has been killed has lost nothing of the log that
// mattered.
#include <cerrno>
#include <deque>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/record/last_edges.hpp"
#include "blk/record/open.hpp"
#include "blk/record/writer.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_record_params[] = {
    {"file", "PATH", "the log, which must not exist yet", ParamSpec::path},
    {"append", "yes", "go on with a log of this disk that is there"},
};

LogKind kind_of(Op op) {
  switch (op) {
    case Op::write:
      return LogKind::write;
    case Op::zero:
      return LogKind::zero;
    case Op::discard:
      return LogKind::discard;
    default:
      return LogKind::flush;
  }
}

class Record final : public Forward {
 public:
  Record(std::unique_ptr<Disk> lower, const Env& env, AsyncIo& io, LogWriter::Parts parts,
         uint64_t last)
      : Forward(std::move(lower)),
        env_(env),
        clock_(env.clock),
        began_ns_(clock_.now_ns()),
        last_(last),
        log_(std::move(parts), env, io, [this] { progress(); }) {}

  // What is still on its way may end in either way: then nobody knows what the disk is.
  ~Record() override {
    if (log_.error() != 0 || flights_.in_use() != 0 || !answers_.empty()) return;
    if (const auto edges = last_edges(lower(), env_)) log_.set_last_edges(*edges);
  }

  void begin_session(bool gap) {
    LogEntry entry = fresh(LogKind::session);
    if (gap) entry.flags |= k_log_gap;
    entry.length = clock_.wall_ns();
    log_.add(entry);
    log_.write_now();
  }

  void submit(Request& request) override {
    if (!changes_data(request.op) && request.op != Op::flush) return lower().submit(request);
    if (waiting_.empty() && may_begin(request)) return begin(request);
    waiting_.push_back(&request);
  }

  Result<json> control(const json& request) override {
    const std::string op = get_string(request, "op");
    const std::string name = get_string(request, "name");
    // A fault layer below passes it on, for a log below that one.
    if (op == "fault.mark") static_cast<void>(mark(name));
    if (op != "record.mark") return lower().control(request);
    static_cast<void>(lower().control(request));  // there may be another one
    return mark(name);
  }

  Result<> resize(uint64_t size) override {
    TRY(lower().resize(size));
    LogEntry entry = fresh(LogKind::resize);
    entry.length = size;
    log_.add(entry);
    return {};
  }

  void inspect(json& out) const override {
    lower().inspect(out);
    json shown = {{"file", log_.path()},
                  {"requests", last_},
                  {"log_bytes", log_.end()},
                  {"state", log_.error() == 0 ? "recording" : "broken"},
                  {"waiting", waiting_.size()}};
    if (log_.error() != 0) {
      shown["error"] = errno_name(log_.error());
      shown["not_recorded"] = not_recorded_;
    }
    out["record"] = std::move(shown);
  }

 private:
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Record* layer = nullptr;
    uint64_t n = 0;
  };
  // Answered when the log has got so far.
  struct Answer {
    uint64_t at;
    Request* request;
  };

  LogEntry fresh(LogKind kind) {
    LogEntry entry;
    entry.kind = kind;
    entry.n = ++last_;
    entry.t_ns = clock_.now_ns() - began_ns_;
    return entry;
  }

  bool may_begin(const Request& request) const {
    return log_.error() != 0 || log_.room(request.op == Op::write ? request.length : 0);
  }

  void begin(Request& request) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    LogEntry entry = fresh(kind_of(request.op));
    flight->n = entry.n;
    if ((request.flags & k_fua) != 0) entry.flags |= k_log_fua;
    if ((request.flags & k_no_unmap) != 0) entry.flags |= k_log_no_unmap;
    entry.offset = request.offset;
    entry.length = request.length;
    entry.detail = request.connection;
    if (log_.error() != 0) ++not_recorded_;
    log_.add(entry, request);
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->completed(done, error);
    });
    lower().submit(flight->child);
  }

  void completed(Flight& flight, int error) {
    LogEntry entry;
    entry.kind = LogKind::done;
    entry.n = flight.n;
    entry.t_ns = clock_.now_ns() - began_ns_;
    entry.detail = static_cast<uint32_t>(error);
    log_.add(entry);
    Request* request = flight.parent;
    flights_.give(&flight);
    const bool stable = request->op == Op::flush || (request->flags & k_fua) != 0;
    if (!stable || error != 0 || log_.error() != 0) return request->done(*request, error);
    answers_.push_back({log_.end(), request});
    log_.push();
  }

  // More is in the file: flushes may be answered, and there is room for what has waited.
  void progress() {
    while (!answers_.empty() && (log_.error() != 0 || answers_.front().at <= log_.written())) {
      Request* request = answers_.front().request;
      answers_.pop_front();
      request->done(*request, 0);
    }
    while (!waiting_.empty() && may_begin(*waiting_.front())) {
      Request* request = waiting_.front();
      waiting_.pop_front();
      begin(*request);
    }
  }

  Result<json> mark(const std::string& name) {
    TRY(check_name("mark", name));
    if (log_.error() != 0)
      return fail(
          Code::io,
          fmt::format("the log {} is broken: {}", log_.path(), strerrordesc_np(log_.error())),
          log_.error());
    LogEntry entry = fresh(LogKind::mark);
    log_.add(entry, name);
    log_.write_now();
    return json{{"mark", name}, {"n", entry.n}, {"file", log_.path()}};
  }

  const Env env_;
  Clock& clock_;
  uint64_t began_ns_;
  uint64_t last_;
  uint64_t not_recorded_ = 0;
  Pool<Flight> flights_;
  std::deque<Request*> waiting_;  // for room in the log; bounded by the front ends
  std::deque<Answer> answers_;    // in the order of their places
  LogWriter log_;
};

struct Wanted {
  std::string file;
  bool append = false;
};

Result<Wanted> parse(const LayerSpec& spec) {
  Wanted wanted;
  for (const auto& [key, value] : spec.params) {
    if (key == "file")
      wanted.file = value;
    else if (value == "yes" || value == "no")
      wanted.append = value == "yes";
    else
      return fail(Code::usage,
                  fmt::format("layer 'record': {}={} is neither yes nor no", key, value));
  }
  if (wanted.file.empty()) return fail(Code::usage, "layer 'record' needs a log: file=PATH");
  return wanted;
}

}  // namespace

std::span<const ParamSpec> record_params() {
  return k_record_params;
}

Result<std::unique_ptr<Disk>> make_record(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env) {
  TRY_ASSIGN(const Wanted wanted, parse(spec));
  if (env.opener == nullptr) return fail(Code::bug, "layer 'record' needs files");
  TRY_ASSIGN(AsyncIo * io, env.opener->async_io());
  TRY_ASSIGN(OpenedLog log, open_log(wanted.file, wanted.append, *lower, env));
  auto disk = std::make_unique<Record>(std::move(lower), env, *io, std::move(log.parts), log.last);
  if (log.continued) disk->begin_session(log.gap);
  return disk;
}

}  // namespace pv::blk
