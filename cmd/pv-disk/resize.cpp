// SPDX-License-Identifier: MIT
// resize and wait-resize: the capacity of a disk that is served, also in a running guest.
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/client.hpp"
#include "verbs.hpp"
#include "vm/hotplug.hpp"
#include "vm/vm_object.hpp"

namespace pv::diskcmd {
namespace {

struct ResizeOptions {
  std::string disk;
  std::string size;
  bool shrink = false;
};

struct WaitOptions {
  std::string disk;
  std::string from;
};

// A VM whose QEMU runs, and may not end or change meanwhile.
struct Running {
  Object vm;
  LockFile lock;
  pid_t qemu;
};

Result<std::optional<Running>> running_vm(const target::DiskTarget& at, const Deadline& deadline) {
  if (at.disk.owner.empty()) return std::nullopt;
  auto vm = at.run.find("vm", "", at.disk.owner);
  if (!vm) return std::nullopt;
  TRY_ASSIGN(LockFile lock, vm::lock_vm(*vm, deadline));
  TRY_ASSIGN(const json state, vm->load());
  const std::string now = vm::actual_state(*vm, state);
  if (!vm::is_running(now)) return std::nullopt;
  const json* qemu = find(state, "qemu");
  const pid_t pid = qemu ? process_from_json(*qemu).pid : 0;
  return Running{std::move(*vm), std::move(lock), pid};
}

Result<json> resize_in(const Object& vm, const Object& disk, uint64_t size,
                       const Deadline& deadline) {
  TRY_ASSIGN(const json state, disk.load());
  return vm::resize_disk(vm, state, size, deadline);
}

Result<int> resize(cli::Context& context, ResizeOptions options) {
  // With one word the disk is the document's.
  if (options.size.empty()) options.size = std::exchange(options.disk, "");
  TRY_ASSIGN(const uint64_t size, parse_size(options.size));
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(const std::optional<Running> running, running_vm(at, deadline));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  TRY_ASSIGN(const json reply, client.call({{"op", "resize"},
                                            {"size_bytes", size},
                                            {"shrink", options.shrink},
                                            {"reconnect_pid", running ? running->qemu : 0},
                                            {"timeout_ms", deadline.left_ns() / k_ns_per_ms}}));
  json seen = {{"guest_bytes", nullptr}};
  if (running) {
    TRY_ASSIGN(seen, resize_in(running->vm, at.disk, size, deadline));
  }
  TRY_ASSIGN(json document, target::live_disk_document(at.disk, deadline));
  document["previous_bytes"] = reply["previous_bytes"];
  document.update(seen);
  context.document()["disk"] = document;
  TRY(context.emit());
  return 0;
}

Result<int> wait_resize(cli::Context& context, const WaitOptions& options) {
  if (options.from.empty()) return fail(Code::usage, "wait-resize: say from which size (--from)");
  TRY_ASSIGN(const uint64_t from, parse_size(options.from));
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  auto reply = client.call({{"op", "wait_resize"}, {"from_bytes", from}});
  if (!reply && reply.error().code == Code::timeout)
    return fail(Code::timeout,
                fmt::format("disk '{}' still has {} bytes", at.disk.display(), from));
  if (!reply) return fail(reply.error());
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(at.disk, deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_resize(cli::Verb& verb) {
  auto options = std::make_shared<ResizeOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.positional("size", options->size, "The new capacity");
  verb.flag("--shrink", options->shrink, "Allow a smaller size: what lies beyond it is lost");
  verb.run([options](cli::Context& context) { return resize(context, *options); });
}

void build_wait_resize(cli::Verb& verb) {
  auto options = std::make_shared<WaitOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.option("--from", options->from, "SIZE", "The capacity that it has now");
  verb.run([options](cli::Context& context) { return wait_resize(context, *options); });
}

}  // namespace pv::diskcmd
