// SPDX-License-Identifier: MIT
#include "base/control.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/socket.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_max_connections = 512;
constexpr size_t k_max_waiting = 16;  // requests sent before the answer to the first

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
      LineChannel::Handler{[this, id](std::string line) { on_line(id, std::move(line)); },
                           [this, id](const char*) { drop(id); }});
}

void ControlServer::drop(ConnectionId id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const bool at_work = found->second.request != 0;
  connections_.erase(found);
  if (at_work && abandoned_) abandoned_(id);
}

void ControlServer::on_line(ConnectionId id, std::string line) {
  Connection& connection = connections_.at(id);
  if (connection.request == 0) return serve(id, line);
  if (connection.waiting.size() >= k_max_waiting) return drop(id);
  connection.waiting.push_back(std::move(line));
}

void ControlServer::serve(ConnectionId id, const std::string& line) {
  const uint64_t number = ++last_request_;
  connections_.at(id).request = number;
  Reply answer = [this, id, number](Result<json> result) { reply(id, number, std::move(result)); };
  auto request = parse_json(line);
  if (!request) return answer(fail(request.error()));
  if (get_string(*request, "op").empty())
    return answer(fail(Code::invalid, "a request needs the key \"op\""));
  handler_(id, *request, std::move(answer));
}

void ControlServer::reply(ConnectionId id, uint64_t request, Result<json> result) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.request != request) return;
  Connection& connection = found->second;
  connection.request = 0;
  json message = result ? std::move(*result) : json({{"error", error_to_json(result.error())}});
  if (!connection.channel->send(to_line(message) + "\n")) return drop(id);
  if (connection.waiting.empty()) return;
  std::string next = std::move(connection.waiting.front());
  connection.waiting.pop_front();
  loop_.post([this, id, next = std::move(next)] {
    if (connections_.count(id) != 0) serve(id, next);
  });
}

}  // namespace pv
