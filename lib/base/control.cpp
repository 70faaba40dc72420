// SPDX-License-Identifier: MIT
#include "base/control.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_max_connections = 512;
// Beyond any of these a connection is not read until some of it is done.
constexpr size_t k_max_waiting = 16;              // requests sent before the answer to the first
constexpr size_t k_max_waiting_bytes = 16 << 20;  // what they carry
constexpr size_t k_max_tagged = 256;              // requests at work at the same time
constexpr size_t k_max_unread_bytes = 4 << 20;    // answers that the client has not taken

bool is_same_user(int fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return false;
  return credentials.uid == geteuid();
}

}  // namespace

ControlServer::~ControlServer() {
  if (listener_) loop_.unwatch(listener_.get());
}

Result<> ControlServer::listen(const std::string& path) {
  TRY_ASSIGN(listener_, listen_unix(path));
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept(); });
}

pid_t ControlServer::peer(ConnectionId id) const {
  const auto found = connections_.find(id);
  return found == connections_.end() ? 0 : peer_pid(found->second.channel->fd());
}

bool ControlServer::has_unsent() const {
  for (const auto& [id, connection] : connections_)
    if (connection.channel->unsent_bytes() > 0) return true;
  return false;
}

void ControlServer::accept() {
  Fd fd = accept_unix(listener_.get());
  if (!fd || connections_.size() >= k_max_connections || !is_same_user(fd.get())) return;
  const ConnectionId id = ++last_id_;
  connections_[id].channel = std::make_unique<LineChannel>(
      loop_, std::move(fd),
      LineChannel::Handler{[this, id](const std::string& line) { on_line(id, line); },
                           [this, id](const char*) { drop(id); },
                           [this, id](std::string bytes) { on_raw(id, std::move(bytes)); },
                           [this, id] { update_hold(id); }});
}

void ControlServer::drop(ConnectionId id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const bool at_work = found->second.request != 0 || !found->second.tagged.empty();
  connections_.erase(found);
  if (at_work && abandoned_) abandoned_(id);
  if (ended_) ended_(id);
}

void ControlServer::on_line(ConnectionId id, const std::string& line) {
  Connection& connection = connections_.at(id);
  Request request{parse_json(line), {}, {}};
  uint64_t raw_bytes = 0;
  if (request.body) {
    raw_bytes = get_u64(*request.body, "raw_bytes");
    const json* tag = find(*request.body, "tag");
    if (tag && tag->is_number_unsigned()) request.tag = tag->get<uint64_t>();
    if (get_string(*request.body, "op").empty())
      request.body = fail(Code::invalid, "a request needs the key \"op\"");
  }
  if (raw_bytes > max_raw_bytes_) {
    // What follows could not be told from requests.
    const Error error(Code::invalid, fmt::format("more than {} raw bytes", max_raw_bytes_));
    connection.channel->send(to_line({{"error", error_to_json(error)}}) + "\n");
    return drop(id);
  }
  if (raw_bytes == 0) return take(id, std::move(request));
  connection.receiving = std::move(request);
  connection.channel->expect_raw(raw_bytes);
}

void ControlServer::on_raw(ConnectionId id, std::string bytes) {
  Connection& connection = connections_.at(id);
  Request request = std::move(*connection.receiving);
  connection.receiving.reset();
  request.raw = std::move(bytes);
  take(id, std::move(request));
}

void ControlServer::take(ConnectionId id, Request request) {
  Connection& connection = connections_.at(id);
  if (request.tag || (connection.request == 0 && connection.waiting.empty())) {
    serve(id, std::move(request));
  } else {
    connection.waiting_bytes += request.raw.size();
    connection.waiting.push_back(std::move(request));
  }
  update_hold(id);
}

void ControlServer::serve(ConnectionId id, Request request) {
  const uint64_t number = ++last_request_;
  Connection& connection = connections_.at(id);
  if (request.tag)
    connection.tagged.insert(number);
  else
    connection.request = number;
  Reply answer([this, id, number, tag = request.tag](Result<json> result, std::string raw) {
    reply(id, number, tag, std::move(result), std::move(raw));
  });
  if (!request.body) return answer(fail(request.body.error()));
  handler_(id, *request.body, std::move(request.raw), std::move(answer));
}

void ControlServer::reply(ConnectionId id, uint64_t number, std::optional<uint64_t> tag,
                          Result<json> result, std::string raw) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  if (tag ? connection.tagged.erase(number) == 0 : connection.request != number) return;
  if (!tag) connection.request = 0;
  json message = result ? std::move(*result) : json({{"error", error_to_json(result.error())}});
  if (tag) message["tag"] = *tag;
  if (!raw.empty()) message["raw_bytes"] = raw.size();
  LineChannel& channel = *connection.channel;
  if (!channel.send(to_line(message) + "\n") || (!raw.empty() && !channel.send(raw)))
    return drop(id);
  if (!connection.waiting.empty()) loop_.post([this, id] { serve_next(id); });
  update_hold(id);
}

void ControlServer::serve_next(ConnectionId id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  if (connection.request != 0 || connection.waiting.empty()) return;
  Request next = std::move(connection.waiting.front());
  connection.waiting.pop_front();
  connection.waiting_bytes -= next.raw.size();
  serve(id, std::move(next));
  update_hold(id);
}

void ControlServer::update_hold(ConnectionId id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const Connection& connection = found->second;
  connection.channel->hold(connection.waiting.size() >= k_max_waiting ||
                           connection.waiting_bytes >= k_max_waiting_bytes ||
                           connection.tagged.size() >= k_max_tagged ||
                           connection.channel->unsent_bytes() >= k_max_unread_bytes);
}

}  // namespace pv
