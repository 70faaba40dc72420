// SPDX-License-Identifier: MIT
#include "vm/snapshot_probe.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/supervisor/snapshots.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_memory = 16 << 20;
constexpr int k_monitor_fd = k_ram_fd + 1;

// Without events in between: what comes unasked is passed over.
Result<json> answer_to(LineClient& monitor, const std::string& command, const Deadline& deadline) {
  while (true) {
    TRY_ASSIGN(const json reply, monitor.read_json(deadline));
    if (const json* result = find(reply, "return")) return *result;
    if (const json* error = find(reply, "error"))
      return fail(Code::qmp, fmt::format("{}: {}", command, get_string(*error, "desc")));
  }
}

Result<json> ask(LineClient& monitor, const std::string& command, const json& arguments,
                 const Deadline& deadline) {
  json request = {{"execute", command}};
  if (!arguments.is_null()) request["arguments"] = arguments;
  TRY(monitor.send_line(request, deadline));
  return answer_to(monitor, command, deadline);
}

// QEMU has a descriptor of ours under a name from then on.
Result<> give(LineClient& monitor, const char* name, int fd, const Deadline& deadline) {
  std::string text = to_line({{"execute", "getfd"}, {"arguments", {{"fdname", name}}}}) + "\n";
  iovec piece{text.data(), text.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  if (sendmsg(monitor.fd(), &message, MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    return fail_errno("cannot hand a descriptor to QEMU", errno);
  TRY(answer_to(monitor, "getfd", deadline));
  return {};
}

Result<> wait_for_migration(LineClient& monitor, const Deadline& deadline) {
  while (true) {
    TRY_ASSIGN(const json message, monitor.read_json(deadline));
    if (get_string(message, "event") != "MIGRATION") continue;
    const std::string status = get_string(message.value("data", json::object()), "status");
    if (status == "failed") return fail(Code::qmp, "migrate: it fails");
    if (status == "completed") return {};
  }
}

std::vector<std::string> probe_argv(const Qemu& qemu, const std::string& accel) {
  const std::string ram = fmt::format(
      "memory-backend-file,id=ram,size={},share=on,mem-path=/proc/self/fd/{}", k_memory, k_ram_fd);
  std::vector<std::string> argv = {qemu.path,
                                   "-nodefaults",
                                   "-no-user-config",
                                   "-display",
                                   "none",
                                   "-S",
                                   "-machine",
                                   "q35,memory-backend=ram",
                                   "-accel",
                                   accel,
                                   "-m",
                                   fmt::format("{}M", k_memory >> 20),
                                   "-object",
                                   ram,
                                   "-chardev",
                                   fmt::format("socket,id=qmp,fd={}", k_monitor_fd),
                                   "-mon",
                                   "chardev=qmp,mode=control"};
  if (qemu.sandbox) argv.insert(argv.end(), {"-sandbox", k_sandbox});
  return argv;
}

}  // namespace

Result<> try_snapshot(const Qemu& qemu, const std::string& accel, const Deadline& deadline) {
  const Fd memory(memfd_create("pv-doctor", MFD_CLOEXEC));
  if (!memory || ftruncate(memory.get(), k_memory) < 0)
    return fail_errno("cannot make memory for a guest", errno);
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return fail_errno("socketpair", errno);
  LineClient monitor{Fd(pair[0])};
  Fd theirs(pair[1]);
  SpawnOptions options;
  options.argv = probe_argv(qemu, accel);
  options.fds = {{memory.get(), k_ram_fd}, {theirs.get(), k_monitor_fd}};
  TRY_ASSIGN(const Child child, spawn(options));
  theirs.reset();
  TRY(monitor.read_json(deadline));  // the greeting
  TRY(ask(monitor, "qmp_capabilities", nullptr, deadline));
  TRY(ask(monitor, "migrate-set-capabilities", state_capabilities(), deadline));
  const Fd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  TRY(give(monitor, "nowhere", nowhere.get(), deadline));
  TRY(ask(monitor, "migrate", {{"uri", "fd:nowhere"}}, deadline));
  TRY(wait_for_migration(monitor, deadline));
  TRY_ASSIGN(const json migration, ask(monitor, "query-migrate", nullptr, deadline));
  const uint64_t total = get_u64(migration.value("ram", json::object()), "total", UINT64_MAX);
  if (total >= k_memory) return fail(Code::unsupported, "it copies the guest's memory as well");
  TRY(ask(monitor, "xen-save-devices-state", {{"filename", "/dev/null"}, {"live", false}},
          deadline));
  return {};
}

}  // namespace pv::vm
