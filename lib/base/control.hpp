// SPDX-License-Identifier: MIT
// A control socket, as VM supervisors and disk servers have one: one JSON request per line, one
// JSON reply per line. Only processes of our own user are heard. Runs on one Loop's thread.
//
// Replies come in the order of the requests: a connection has one request at work, and what it
// sends meanwhile waits, in its socket when it is much. A request with a "tag" (a number) is begun
// at once instead, its reply carries the tag and may overtake others.
//
// A request or a reply with "raw_bytes": N is followed by N bytes as they are, right after its
// newline: disks move data that way.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <sys/types.h>

#include "base/json.hpp"
#include "base/line_channel.hpp"
#include "base/result.hpp"

namespace pv {

class ControlServer {
 public:
  using ConnectionId = uint64_t;

  // Answers one request. Copyable; the first call counts, and a connection that has gone away
  // meanwhile makes it do nothing. `raw` follows the reply, which announces it.
  class Reply {
   public:
    using Send = std::function<void(Result<json> result, std::string raw)>;
    explicit Reply(Send send) : send_(std::move(send)) {}
    void operator()(Result<json> result, std::string raw = {}) const {
      send_(std::move(result), std::move(raw));
    }

   private:
    Send send_;
  };

  // `raw` is what followed the request; empty without "raw_bytes".
  using RequestHandler =
      std::function<void(ConnectionId, const json& request, std::string raw, Reply reply)>;

  // Requests may carry at most `max_raw_bytes`; a connection that announces more is ended.
  ControlServer(Loop& loop, RequestHandler handler, size_t max_raw_bytes = 0)
      : loop_(loop), handler_(std::move(handler)), max_raw_bytes_(max_raw_bytes) {}
  ~ControlServer();

  Result<> listen(const std::string& path);
  // Called when a connection ends while a request of it is at work.
  void on_abandoned(std::function<void(ConnectionId)> callback) {
    abandoned_ = std::move(callback);
  }
  // Called when a connection ends, whatever it has asked for.
  void on_ended(std::function<void(ConnectionId)> callback) { ended_ = std::move(callback); }
  // The process that has opened a connection; 0 when it is no longer there.
  pid_t peer(ConnectionId id) const;
  // True while an answer is still on its way out.
  bool has_unsent() const;

 private:
  struct Request {
    Result<json> body;
    std::string raw;
    std::optional<uint64_t> tag;
  };
  struct Connection {
    std::unique_ptr<LineChannel> channel;
    uint64_t request = 0;              // number of the request at work, 0 when idle
    std::set<uint64_t> tagged;         // numbers of those with a tag
    std::optional<Request> receiving;  // its raw bytes are still on their way
    std::deque<Request> waiting;
    size_t waiting_bytes = 0;
  };
  void accept();
  void on_line(ConnectionId id, const std::string& line);
  void on_raw(ConnectionId id, std::string bytes);
  void take(ConnectionId id, Request request);
  void serve(ConnectionId id, Request request);
  void reply(ConnectionId id, uint64_t number, std::optional<uint64_t> tag, Result<json> result,
             std::string raw);
  void serve_next(ConnectionId id);
  void update_hold(ConnectionId id);
  void drop(ConnectionId id);

  Loop& loop_;
  RequestHandler handler_;
  size_t max_raw_bytes_;
  std::function<void(ConnectionId)> abandoned_, ended_;
  Fd listener_;
  std::map<ConnectionId, Connection> connections_;
  ConnectionId last_id_ = 0;
  uint64_t last_request_ = 0;
};

}  // namespace pv
