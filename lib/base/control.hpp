// SPDX-License-Identifier: MIT
// A control socket, as VM supervisors and disk servers have one: one JSON request per line, one
// JSON reply per line, in order. A connection may have one request at work; what it sends meanwhile
// waits in its socket buffer bound. Only processes of our own user are heard. Runs on one Loop's
// thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/json_fwd.hpp"
#include "base/line_channel.hpp"
#include "base/result.hpp"

namespace pv {

class ControlServer {
 public:
  using ConnectionId = uint64_t;
  // Answers one request. Copyable; the first call counts, and a connection that has gone away
  // meanwhile makes it do nothing.
  using Reply = std::function<void(Result<json>)>;
  using RequestHandler = std::function<void(ConnectionId, const json& request, Reply reply)>;

  ControlServer(Loop& loop, RequestHandler handler) : loop_(loop), handler_(std::move(handler)) {}
  ~ControlServer();

  Result<> listen(const std::string& path);
  // Called when a connection ends while its request is at work.
  void on_abandoned(std::function<void(ConnectionId)> callback) {
    abandoned_ = std::move(callback);
  }
  // True while an answer is still on its way out.
  bool has_unsent() const;

 private:
  struct Connection {
    std::unique_ptr<LineChannel> channel;
    uint64_t request = 0;  // number of the request at work, 0 when idle
    std::deque<std::string> waiting;
  };
  void accept();
  void on_line(ConnectionId id, std::string line);
  void serve(ConnectionId id, const std::string& line);
  void reply(ConnectionId id, uint64_t request, Result<json> result);
  void drop(ConnectionId id);

  Loop& loop_;
  RequestHandler handler_;
  std::function<void(ConnectionId)> abandoned_;
  Fd listener_;
  std::map<ConnectionId, Connection> connections_;
  ConnectionId last_id_ = 0;
  uint64_t last_request_ = 0;
};

}  // namespace pv
