// SPDX-License-Identifier: MIT
#include "serve/storage_daemon.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "serve/blockdev.hpp"

namespace pv::serve {
namespace {

constexpr int k_listen_fd = 3;
constexpr size_t k_max_restarts = 5;  // within the window
constexpr uint64_t k_window_ns = 10 * k_ns_per_s;
constexpr uint64_t k_dying_ms = 20;  // its sockets are closed a moment before it is gone
constexpr uint64_t k_end_ms = 5000;
constexpr uint64_t k_resize_ms = 20'000;

// "qemu-storage-daemon: --blockdev {…}: reason": what follows the object, which ends in a brace.
std::string reason_of(const std::string& line) {
  size_t from = line.rfind("}: ");
  if (from != std::string::npos) return line.substr(from + 3);
  from = line.find(": ");
  return from == std::string::npos ? line : line.substr(from + 2);
}

std::string secret_option(const std::string& key_file) {
  std::string path;
  for (const char c : key_file) path += c == ',' ? std::string(",,") : std::string(1, c);
  return fmt::format("secret,id={},file={}", k_secret_id, path);
}

std::string last_line(const std::string& text) {
  std::vector<std::string> lines = split(text, '\n');
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines.empty() ? "" : lines.back();
}

}  // namespace

Result<> StorageDaemon::start() {
  unlink(socket().c_str());
  TRY_ASSIGN(Fd listener, listen_unix(socket()));
  const std::string log_path = options_.stem + ".log";
  Fd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!log) return fail_errno("cannot create " + log_path, errno);
  const char* program = getenv("PV_QSD");
  SpawnOptions options;
  options.argv = {program && *program ? program : "qemu-storage-daemon"};
  if (!options_.key_file.empty())
    options.argv.insert(options.argv.end(), {"--object", secret_option(options_.key_file)});
  options.argv.insert(options.argv.end(),
                      {"--blockdev", options_.blockdev, "--nbd-server",
                       fmt::format("addr.type=fd,addr.str={}", k_listen_fd), "--export",
                       fmt::format("type=nbd,id=export,node-name={},name=,writable={}", k_node_name,
                                   options_.read_only ? "off" : "on")});
  options.stderr_fd = log.get();
  options.death_signal = SIGTERM;  // even when we are killed it closes the image in order
  options.fds = {{listener.get(), k_listen_fd}};
  TRY_ASSIGN(process_, spawn(options));
  fresh_ = true;
  return {};
}

Result<> StorageDaemon::revive() {
  if (std::exchange(fresh_, false) || !ended(k_dying_ms)) return {};
  const uint64_t now = system_clock().now_ns();
  while (!recent_ns_.empty() && now - recent_ns_.front() > k_window_ns) recent_ns_.pop_front();
  if (recent_ns_.size() >= k_max_restarts)
    return fail(Code::io, fmt::format("qemu-storage-daemon ended {} times within {} s: {}",
                                      k_max_restarts, k_window_ns / k_ns_per_s, complaint()));
  recent_ns_.push_back(now);
  ++restarts_;
  return start();
}

Result<> StorageDaemon::resize(uint64_t size) {
  ask_to_end();
  if (!wait_for_end(Deadline::in_ms(k_end_ms))) {
    TRY(start());
    return fail(Code::timeout, "qemu-storage-daemon does not let go of the image in time");
  }
  json node = json::parse(options_.blockdev);
  node.erase("node-name");
  node["read-only"] = false;
  std::vector<std::string> argv = {"qemu-img", "resize", "-q", "--shrink"};
  if (!options_.key_file.empty())
    argv.insert(argv.end(), {"--object", secret_option(options_.key_file)});
  argv.insert(argv.end(), {"json:" + to_line(node), std::to_string(size)});
  const auto resized = run_program(argv, Deadline::in_ms(k_resize_ms));
  TRY(start());
  if (!resized) return fail(resized.error());
  if (resized->status.code == 0 && resized->status.signal == 0) return {};
  const std::string line = last_line(resized->err);
  if (line.find(strerrordesc_np(ENOSPC)) != std::string::npos)
    return fail(Code::system, "cannot resize: no space left", ENOSPC);
  return fail(Code::unsupported,
              fmt::format("{} images: {}", get_string(node, "driver"), reason_of(line)));
}

void StorageDaemon::inspect(json& backend) const {
  backend["type"] = "storage_daemon";
  backend["restarts"] = restarts_;
  backend["pid"] = process_ ? json(process_.pid()) : json(nullptr);
}

bool StorageDaemon::wait_for_end(const Deadline& deadline) {
  if (!process_ || process_.wait(deadline)) return true;
  process_ = Child();
  return false;
}

bool StorageDaemon::ended(uint64_t ms) {
  return !process_ || process_.wait(Deadline::in_ms(ms)).has_value();
}

std::string StorageDaemon::complaint() const {
  const std::string line = last_line(tail_of_file(options_.stem + ".log", 4096));
  return line.empty() ? "qemu-storage-daemon ended without a word" : reason_of(line);
}

}  // namespace pv::serve
