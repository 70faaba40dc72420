// SPDX-License-Identifier: MIT
// io: operations as JSON Lines on stdin, over one control connection, results in order on stdout.
// What is held at a time is bounded: one unfinished input line, and the operations of the window.
#include <cerrno>
#include <deque>
#include <unistd.h>

#include <fmt/format.h>

#include "base/line_channel.hpp"
#include "base/loop.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "io_op.hpp"
#include "serve/client.hpp"
#include "serve/control_ops.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

constexpr uint64_t k_max_parallel = 256;
constexpr size_t k_max_line = 32 << 20;            // base64 of the largest write, and some
constexpr uint64_t k_max_flight_bytes = 64 << 20;  // data of the operations in the window

struct IoOptions {
  std::string disk;
  std::string parallel;
  std::string host_key;
};

class Stream {
 public:
  Stream(cli::Context& context, Loop& loop, Fd server, std::string host_key, uint64_t parallel,
         uint64_t timeout_ns)
      : context_(context),
        loop_(loop),
        host_key_(std::move(host_key)),
        parallel_(parallel),
        timeout_ns_(timeout_ns),
        input_(k_max_line),
        channel_(loop, std::move(server),
                 {[this](const std::string& line) { on_line(line); },
                  [this](const char* why) { end(Error(Code::server_dead, closed_text(why))); },
                  [this](std::string bytes) { complete(reply_, std::move(bytes)); }}) {}

  Result<int> run() {
    started_ns_ = system_clock().now_ns();
    pump();
    TRY(loop_.run());
    if (error_) return fail(*error_);
    if (!context_.selects_field()) TRY(context_.emit(summary()));
    if (failed_ == 0) return 0;
    cli::say(
        fmt::format("pv-disk: {} of {} operations did not do what was expected", failed_, count_));
    return exit_class(Code::io);
  }

 private:
  struct Slot {
    IoOp op;
    uint64_t tag = 0;
    TimerId timer = 0;
    uint64_t started_ns = 0;
    std::optional<json> result;
  };

  static std::string closed_text(const char* why) {
    return fmt::format("the disk's server: {}", why);
  }

  // Starts what may be started, then sees to it that more input comes.
  void pump() {
    while (wants_input()) {
      if (auto line = input_.next())
        start(*line);
      else if (eof_ || !read_some())
        break;
    }
    if (watching_ && (eof_ || !wants_input())) {
      loop_.unwatch(STDIN_FILENO);
      watching_ = ready_ = false;
    }
    if (!window_.empty() || !(eof_ || malformed_)) return;
    if (malformed_ && !error_) error_ = malformed_;
    loop_.stop();
  }

  bool wants_input() const { return !error_ && !malformed_ && has_room(); }
  bool has_room() const {
    return window_.size() < parallel_ && (window_.empty() || flight_bytes_ < k_max_flight_bytes);
  }

  // False when there is nothing to be had right now: a file never says so, a pipe or a terminal is
  // watched until it has something.
  bool read_some() {
    if (!watching_) {
      const auto watched = loop_.watch(STDIN_FILENO, EPOLLIN, [this](uint32_t) {
        ready_ = true;
        pump();
      });
      watching_ = watched.has_value();
    }
    if (watching_ && !std::exchange(ready_, false)) return false;
    char chunk[65536];
    const ssize_t n = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    if (n < 0) {
      malformed_ = system_error("cannot read stdin", errno);
    } else if (n == 0) {
      eof_ = true;
      if (unfinished_) input_.feed("\n");
    } else {
      unfinished_ = chunk[n - 1] != '\n';
      if (!input_.feed({chunk, static_cast<size_t>(n)})) refuse_line("it is too long");
    }
    return true;
  }

  // What was begun before is finished and printed first.
  void refuse_line(const std::string& why) {
    ++lines_;
    malformed_ =
        Error(Code::bad_document, fmt::format("line {}: {}", lines_, why)).with("line", lines_);
  }

  void start(const std::string& line) {
    if (line.find_first_not_of(" \t") == std::string::npos) {
      ++lines_;
      return;
    }
    auto op = parse_io_op(line, lines_ + 1);
    if (!op) return refuse_line(op.error().message);
    ++lines_;
    ++count_;
    window_.emplace_back();
    Slot& slot = window_.back();
    slot.op = std::move(*op);
    slot.tag = count_;
    slot.started_ns = system_clock().now_ns();
    slot.timer = loop_.after(timeout_ns_, [this, number = lines_] {
      end(Error(Code::timeout, fmt::format("line {}: no answer in time", number))
              .with("line", number));
    });
    flight_bytes_ += slot.op.bytes();
    json request = slot.op.request;
    request["tag"] = slot.tag;
    if (!host_key_.empty()) request["host_key"] = host_key_;
    const std::string payload = std::exchange(slot.op.payload, std::string());
    if (channel_.send(to_line(request) + "\n") && !payload.empty()) channel_.send(payload);
  }

  void on_line(const std::string& line) {
    auto reply = parse_json(line);
    if (!reply) return end(reply.error());
    reply_ = std::move(*reply);
    const uint64_t raw = get_u64(reply_, "raw_bytes");
    if (raw != 0) return channel_.expect_raw(raw);
    complete(reply_, {});
  }

  void complete(const json& reply, const std::string& data) {
    const uint64_t tag = get_u64(reply, "tag");
    for (Slot& slot : window_) {
      if (slot.tag != tag || slot.result) continue;
      loop_.cancel(slot.timer);
      const json* error = find(reply, "error");
      const Result<json> answer = error ? Result<json>(fail(error_from_json(*error))) : reply;
      slot.result = io_result(slot.op, answer, data);
      (*slot.result)["duration_ms"] =
          static_cast<double>((system_clock().now_ns() - slot.started_ns) / 1000) / 1000;
    }
    print_finished();
  }

  void print_finished() {
    while (!window_.empty() && window_.front().result) {
      const Slot& slot = window_.front();
      flight_bytes_ -= slot.op.bytes();
      const bool error = slot.result->contains("error");
      if (error) ++errors_;
      if (!get_bool(*slot.result, "ok")) ++failed_;
      const std::string name = get_string(*slot.result, "op");
      if (!error && name == "read") bytes_read_ += slot.op.bytes();
      if (!error && name == "write") bytes_written_ += slot.op.bytes();
      auto printed =
          context_.emit({{"v", cli::k_document_version}, {"io", std::move(*slot.result)}});
      if (printed) printed = context_.finish();  // on a terminal too: now, not at the end
      window_.pop_front();
      if (!printed) return end(printed.error());
    }
    pump();
  }

  void end(const Error& error) {
    if (!error_) error_ = error;
    loop_.stop();
  }

  json summary() const {
    const uint64_t ns = system_clock().now_ns() - started_ns_;
    return {{"v", cli::k_document_version},
            {"summary",
             {{"operations", count_},
              {"errors", errors_},
              {"failed", failed_},
              {"read_bytes", bytes_read_},
              {"written_bytes", bytes_written_},
              {"duration_ms", static_cast<double>(ns / 1000) / 1000}}}};
  }

  cli::Context& context_;
  Loop& loop_;
  const std::string host_key_;
  const uint64_t parallel_;
  const uint64_t timeout_ns_;
  LineBuffer input_;
  bool watching_ = false, ready_ = false, eof_ = false, unfinished_ = false;
  std::deque<Slot> window_;  // in the order of the input
  uint64_t flight_bytes_ = 0;
  json reply_;  // the one whose bytes are on their way
  std::optional<Error> error_;
  std::optional<Error> malformed_;
  uint64_t lines_ = 0, count_ = 0, errors_ = 0, failed_ = 0;
  uint64_t bytes_read_ = 0, bytes_written_ = 0, started_ns_ = 0;
  LineChannel channel_;  // last: ends first
};

Result<int> act(cli::Context& context, const IoOptions& options) {
  if (options.disk.empty() && !context.input_from_file())
    return fail(Code::usage, "io: name the disk (or use --in): stdin carries the operations");
  uint64_t parallel = 1;
  if (!options.parallel.empty()) {
    TRY_ASSIGN(parallel, parse_count("--parallel", options.parallel));
  }
  if (parallel == 0 || parallel > k_max_parallel)
    return fail(Code::usage,
                fmt::format("--parallel {} is not between 1 and {}", parallel, k_max_parallel));
  TRY(check_host_key(options.host_key));
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const uint64_t timeout_ns, context.timeout_ns(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client,
             serve::DiskClient::connect(at.disk, Deadline::in_ns(timeout_ns)));
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  return Stream(context, *loop, client.release(), options.host_key, parallel, timeout_ns).run();
}

}  // namespace

void build_io(cli::Verb& verb) {
  auto options = std::make_shared<IoOptions>();
  verb.positional("disk", options->disk, "The disk (stdin carries the operations)");
  add_host_key_flag(verb, options->host_key);
  verb.option("--parallel", options->parallel, "N",
              "Have up to N operations in flight (default: 1, at most 256)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
