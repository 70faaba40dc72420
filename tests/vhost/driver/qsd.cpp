// SPDX-License-Identifier: MIT
#include "qsd.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

namespace pv::test::vhost {

Result<StorageDaemon> StorageDaemon::start(const DaemonOptions& options) {
  StorageDaemon daemon;
  daemon.options_ = options;
  TRY(daemon.restart());
  return daemon;
}

Result<> StorageDaemon::kill() {
  process_.kill(SIGKILL);
  TRY(process_.wait(Deadline::in_ms(10'000)));
  return {};
}

Result<> StorageDaemon::restart() {
  if (process_) TRY(kill());
  unlink(options_.socket.c_str());
  SpawnOptions spawned;
  spawned.argv = {
      "qemu-storage-daemon",
      "--blockdev",
      "driver=file,node-name=f,discard=unmap,filename=" + options_.image,
      "--blockdev",
      "driver=raw,node-name=n,discard=unmap,file=f",
      "--export",
      fmt::format("type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={},writable={},"
                  "num-queues={}",
                  options_.socket, options_.writable ? "on" : "off", options_.queues)};
  TRY_ASSIGN(process_, spawn(spawned));
  // A connection to try it with would be the one that it serves.
  const Deadline deadline = Deadline::in_ms(20'000);
  while (access(options_.socket.c_str(), F_OK) != 0) {
    if (deadline.passed()) return fail(Code::timeout, "qemu-storage-daemon does not listen");
    if (process_.wait(Deadline::in_ms(0)))
      return fail(Code::unavailable, "qemu-storage-daemon has ended");
    sleep_ns(2 * k_ns_per_ms);
  }
  return {};
}

}  // namespace pv::test::vhost
