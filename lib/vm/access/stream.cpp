// SPDX-License-Identifier: MIT
#include "vm/access/stream.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/access/scripts.hpp"
#include "vm/client.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_open_ns = 35 * k_ns_per_s;   // the supervisor's own limit comes first
constexpr uint64_t k_reply_ns = 10 * k_ns_per_s;  // of a line that has begun to come
constexpr uint64_t k_status_ns = 2 * k_ns_per_s;
constexpr size_t k_stream_chunk = 1 << 18;

// Its words when the supervisor hangs up: the VM's end is the better reason.
Error ended(const Object& vm, Error error, std::string_view kind) {
  return error.code == Code::server_dead || error.code == Code::system ? guest_died_error(vm, kind)
                                                                       : std::move(error);
}

// One command's streams between its ports and this process.
class Pump {
 public:
  Pump(GuestStream& stream, const StreamCommand& command, const Sink& sink)
      : stream_(stream), command_(command), sink_(sink), chunk_(k_stream_chunk, '\0') {
    has_input_ = command.input >= 0;
    if (has_input_) pending_ = k_hello;
  }

  // Until the command has ended.
  Result<> run() {
    while (true) {
      TRY(wait());
      if (poll_[k_out].revents != 0) TRY(receive(Stream::out));
      if (poll_[k_err].revents != 0) TRY(receive(Stream::err));
      if (poll_[k_to].revents != 0) send();
      if (poll_[k_from].revents != 0) TRY(read_input());
      if ((poll_[k_reader].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0)
        return fail_errno("cannot write to stdout", EPIPE);
      if (poll_[k_control].revents != 0) return {};
    }
  }

  // What is still in the sockets after that.
  Result<> drain() {
    TRY(receive_all(Stream::out));
    return receive_all(Stream::err);
  }

 private:
  enum Index { k_control, k_out, k_err, k_to, k_from, k_reader, k_count };

  Result<> wait() {
    const bool sending = !pending_.empty();
    const int to = has_input_ ? stream_.port(2).fd.get() : -1;
    poll_ = {pollfd{stream_.control(), POLLIN, 0},
             pollfd{stream_.port(0).fd.get(), POLLIN, 0},
             pollfd{stream_.port(1).fd.get(), POLLIN, 0},
             pollfd{sending ? to : -1, POLLOUT, 0},
             pollfd{has_input_ && !sending && !input_ended_ ? command_.input : -1, POLLIN, 0},
             pollfd{command_.output, 0, 0}};
    while (poll(poll_.data(), poll_.size(), -1) < 0)
      if (errno != EINTR) return fail_errno("poll", errno);
    return {};
  }

  // False when there is nothing (more) to read.
  Result<bool> receive(Stream from) {
    const int fd = stream_.port(from == Stream::out ? 0 : 1).fd.get();
    const ssize_t n = recv(fd, chunk_.data(), chunk_.size(), MSG_DONTWAIT);
    if (n > 0) {
      TRY(sink_(from, {chunk_.data(), static_cast<size_t>(n)}));
      return true;
    }
    // QEMU hangs up only when it ends; the supervisor will tell.
    if (n == 0) stream_.port(from == Stream::out ? 0 : 1).fd = Fd();
    return false;
  }

  Result<> receive_all(Stream from) {
    while (stream_.port(from == Stream::out ? 0 : 1).fd) {
      TRY_ASSIGN(const bool more, receive(from));
      if (!more) break;
    }
    return {};
  }

  void send() {
    const int fd = stream_.port(2).fd.get();
    const ssize_t n = ::send(fd, pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) pending_.erase(0, static_cast<size_t>(n));
    if (n < 0 && errno != EAGAIN && errno != EINTR) input_is_over();
    if (pending_.empty() && input_ended_) input_is_over();
  }

  Result<> read_input() {
    const ssize_t n = read(command_.input, chunk_.data(), chunk_.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return {};
    if (n < 0) return fail_errno("cannot read stdin", errno);
    if (n == 0) {
      input_ended_ = true;
      input_is_over();
    } else {
      pending_.assign(chunk_.data(), static_cast<size_t>(n));
    }
    return {};
  }

  // The socket stays open: QEMU would drop what it has not read yet.
  void input_is_over() {
    shutdown(stream_.port(2).fd.get(), SHUT_WR);
    pending_.clear();
    has_input_ = false;
  }

  GuestStream& stream_;
  const StreamCommand& command_;
  const Sink& sink_;
  std::string chunk_, pending_;
  std::array<pollfd, k_count> poll_{};
  bool has_input_ = false, input_ended_ = false;
};

}  // namespace

Result<GuestStream> GuestStream::open(const Object& vm, std::string_view kind, size_t count) {
  const Deadline deadline = Deadline::in_ns(k_open_ns);
  auto client = LineClient::connect(vm.path(k_control_socket), deadline);
  if (!client) return fail(ended(vm, client.error(), kind));
  GuestStream stream(vm, std::move(*client));
  json request = {{"op", "stream_open"}, {"ports", count}, {"kind", kind}};
  name_caller(request);
  const auto reply = stream.client_.call(request, deadline);
  if (!reply) return fail(ended(vm, reply.error(), kind));
  for (const json& port : reply->at("ports")) {
    TRY_ASSIGN(Fd fd, connect_unix(get_string(port, "socket"), deadline));
    stream.ports_.push_back({get_u64(port, "nr"), std::move(fd)});
  }
  if (stream.ports_.size() != count) return fail(Code::bug, "another number of ports than asked");
  return stream;
}

Result<> GuestStream::start(const std::string& script, const std::vector<std::string>& args,
                            const std::vector<std::string>& env, uint64_t timeout_ns) {
  std::vector<std::string> argv = {"/bin/sh", "-c", script, "pv-vm run"};
  argv.insert(argv.end(), args.begin(), args.end());
  TRY_ASSIGN(json request, run_request(argv));
  request["lease"] = true;
  if (!env.empty()) request["env"] = env;
  request["timeout_ms"] = timeout_ns / k_ns_per_ms;
  return client_.send_line(request, Deadline::in_ns(k_open_ns));
}

Result<json> GuestStream::status() {
  const auto reply = client_.read_json(Deadline::in_ns(k_reply_ns));
  if (!reply) return fail(ended(vm_, reply.error(), "run"));
  if (const json* error = find(*reply, "error")) return fail(error_from_json(*error));
  return reply->value("status", json::object());
}

bool GuestStream::agent_is_ready() const {
  const auto status =
      call_supervisor(vm_, {{"op", "status"}}, Deadline::in_ns(k_status_ns), "status");
  return status && get_string(*status, "agent") == "ready";
}

Result<json> stream_in_guest(const Object& vm, const StreamCommand& command, const Sink& sink) {
  const bool has_input = command.input >= 0;
  TRY_ASSIGN(GuestStream stream, GuestStream::open(vm, command.kind, has_input ? 3 : 2));
  const auto number = [&](size_t i) { return std::to_string(stream.port(i).nr); };
  std::vector<std::string> args = {number(0), number(1), has_input ? number(2) : "-",
                                   command.directory, command.user};
  args.insert(args.end(), command.argv.begin(), command.argv.end());
  TRY(stream.start(k_run_script, args, command.env, command.timeout_ns));
  Pump pump(stream, command, sink);
  TRY(pump.run());
  auto status = stream.status();
  TRY(pump.drain());
  if (!status) {
    const Error& error = status.error();
    const json* last = error.extra ? find(*error.extra, "status") : nullptr;
    if (!last) return fail(error);
    return fail(Error(error.code, fmt::format("'{}' has not ended in time and was killed in the "
                                              "guest",
                                              printable(command.argv.at(0))))
                    .with("run", run_document(command.argv, *last)));
  }
  const auto signal = static_cast<int>(get_u64(*status, "signal"));
  if (const auto failure = script_failure(signal, command.directory, command.user))
    return fail(*failure);
  json run = run_document(command.argv, *status);
  run.erase("stdout");
  run.erase("stderr");
  return run;
}

}  // namespace pv::vm
