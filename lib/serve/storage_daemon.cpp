// SPDX-License-Identifier: MIT
#include "serve/storage_daemon.hpp"

#include <cstdlib>
#include <fcntl.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"

namespace pv::serve {
namespace {

constexpr int k_listen_fd = 3;

}  // namespace

Result<StorageDaemon> start_storage_daemon(const std::string& image, const std::string& format,
                                           bool read_only, const std::string& stem) {
  StorageDaemon daemon;
  daemon.socket = stem + ".sock";
  daemon.log = stem + ".log";
  TRY_ASSIGN(Fd listener, listen_unix(daemon.socket));
  Fd log(open(daemon.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!log) return fail_errno("cannot create " + daemon.log, errno);
  const json file = {{"driver", "file"},
                     {"node-name", "file"},
                     {"filename", image},
                     {"read-only", read_only},
                     {"discard", "unmap"}};
  const json node = {{"driver", format},       {"node-name", "disk"}, {"file", "file"},
                     {"read-only", read_only}, {"discard", "unmap"},  {"detect-zeroes", "off"}};
  const char* program = getenv("PV_QSD");
  SpawnOptions options;
  options.argv = {
      program && *program ? program : "qemu-storage-daemon",
      "--blockdev",
      to_line(file),
      "--blockdev",
      to_line(node),
      "--nbd-server",
      fmt::format("addr.type=fd,addr.str={}", k_listen_fd),
      "--export",
      fmt::format("type=nbd,id=export,node-name=disk,name=,writable={}", read_only ? "off" : "on")};
  options.stderr_fd = log.get();
  options.death_signal = SIGTERM;  // even when we are killed it closes the image in order
  options.fds = {{listener.get(), k_listen_fd}};
  TRY_ASSIGN(daemon.process, spawn(options));
  return daemon;
}

std::string daemon_complaint(const StorageDaemon& daemon) {
  std::vector<std::string> lines = split(tail_of_file(daemon.log, 4096), '\n');
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  if (lines.empty()) return "qemu-storage-daemon ended without a word";
  const size_t colon = lines.back().find(": ");  // "qemu-storage-daemon: --blockdev …: reason"
  return colon == std::string::npos ? lines.back() : lines.back().substr(colon + 2);
}

}  // namespace pv::serve
