// SPDX-License-Identifier: MIT
// A disk's server as a daemon: started, waited for, and, where that is wanted, started again.
#include <sys/prctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "serve/keeper.hpp"
#include "serve/server.hpp"

namespace pv::serve {
namespace {

// The daemon's life; whether it has come up is told through `ready`, once.
int serve_as_daemon(const Object& disk, const Spec& spec, Fd ready) {
  prctl(PR_SET_NAME, "pv-disk-server");
  const auto report = [&](const json& message) {
    if (ready) static_cast<void>(write_all(ready.get(), to_line(message)));
    ready.reset();
  };
  auto result = run_server(disk, spec, [&](const json& state) { report({{"disk", state}}); });
  if (result) return 0;
  report({{"error", error_to_json(result.error())}});
  static_cast<void>(write_all(STDERR_FILENO, result.error().message + "\n"));
  return exit_class(result.error().code);
}

}  // namespace

Result<StartingServer> begin_server(const Object& disk, const Spec& spec) {
  TRY_ASSIGN(Daemon daemon, start_daemon(disk.path("log"), [&](Fd ready) {
               const ProcessId self = identify(getpid()).value_or(ProcessId{getpid(), 0});
               static_cast<void>(write_file_atomic(disk.path(k_starting_file),
                                                   to_line(process_to_json(self)), 0600));
               if (!spec.restart) return serve_as_daemon(disk, spec, std::move(ready));
               const std::string vhost = spec.vhost_user ? disk.path(k_vhost_socket) : "";
               return keep_serving(disk, vhost, ready, [&](const Life& life) {
                 Spec here = spec;
                 here.again = life.again;
                 here.vhost_door = life.door;
                 here.vhost_offer = life.offer;
                 return serve_as_daemon(disk, here, std::move(ready));
               });
             }));
  return StartingServer{std::move(daemon), disk.path("log")};
}

Result<json> StartingServer::wait(const Deadline& deadline) const {
  auto message = read_ready(daemon, deadline);
  if (!message) {
    static_cast<void>(terminate(daemon.id, 0));
    return fail(Code::timeout, "the disk server does not come up in time");
  }
  auto answer = parse_json(*message);
  if (!answer)
    return fail(Code::server_dead,
                fmt::format("the disk server died while starting: {}", tail_of_file(log, 4096)));
  if (const json* error = find(*answer, "error")) return fail(error_from_json(*error));
  return (*answer)["disk"];
}

Result<json> start_server(const Object& disk, const Spec& spec, const Deadline& deadline) {
  TRY_ASSIGN(const StartingServer server, begin_server(disk, spec));
  return server.wait(deadline);
}

}  // namespace pv::serve
