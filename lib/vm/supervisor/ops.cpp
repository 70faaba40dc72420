// SPDX-License-Identifier: MIT
// What the supervisor does for commands: one function per `op` (table in supervisor.hpp).
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_default_ms = 30'000;
constexpr uint64_t k_max_timeout_ms = uint64_t{1000} * 24 * 3600 * 365;

std::optional<std::vector<std::string>> strings(const json& request, const char* key) {
  std::vector<std::string> out;
  const json* list = find(request, key);
  if (!list) return out;
  if (!list->is_array()) return std::nullopt;
  for (const json& item : *list) {
    if (!item.is_string()) return std::nullopt;
    out.push_back(item.get<std::string>());
  }
  return out;
}

// Wraps the value under a key, passes errors on.
JsonReply under(const char* key, ControlServer::Reply reply) {
  return [key, reply = std::move(reply)](Result<json> result) {
    if (!result) return reply(fail(result.error()));
    reply(json({{key, std::move(*result)}}));
  };
}

}  // namespace

uint64_t timeout_of(const json& request) {
  return std::min(get_u64(request, "timeout_ms", k_default_ms), k_max_timeout_ms) * k_ns_per_ms;
}

void Supervisor::on_request(ControlServer::ConnectionId id, const json& request,
                            const Reply& reply) {
  const std::string op = get_string(request, "op");
  if (phase_ == Phase::running) be_small_when_idle();
  if (op == "status") return op_status(reply);
  if (op == "quit") {
    quit_replies_.push_back(reply);
    if (const std::string why = get_string(request, "why"); !why.empty()) quit_reason_ = why;
    return quit();
  }
  if (phase_ == Phase::booting)
    return reply(fail(Code::wrong_state, fmt::format("VM '{}' is still booting", plan_.vm.name)));
  if (phase_ == Phase::ending)
    return reply(fail(Code::guest_died, fmt::format("VM '{}' is being closed", plan_.vm.name)));
  if (op.rfind("snap.", 0) == 0) return op_snap(id, request, reply);
  if (snapshots_.busy() && op != "power_cut") {
    deferred_.emplace_back([this, id, request, reply] { on_request(id, request, reply); });
    return;
  }
  struct Row {
    std::string_view op;
    void (Supervisor::*serve)(ControlServer::ConnectionId, const json&, const Reply&);
  };
  static constexpr Row rows[] = {
      {"stream_open", &Supervisor::op_stream_open},
      {"run", &Supervisor::op_run},
      {"qmp", &Supervisor::op_qmp},
      {"agent", &Supervisor::op_agent},
      {"plug", &Supervisor::op_plug},
      {"unplug", &Supervisor::op_unplug},
      {"resize", &Supervisor::op_resize},
      {"eject", &Supervisor::op_eject},
      {"pause", &Supervisor::op_pause},
      {"resume", &Supervisor::op_resume},
      {"reset", &Supervisor::op_reset},
      {"power_button", &Supervisor::op_power_button},
      {"power_cut", &Supervisor::op_power_cut},
      {"net", &Supervisor::op_net},
  };
  for (const Row& row : rows)
    if (row.op == op) return (this->*row.serve)(id, request, reply);
  reply(fail(Code::invalid, fmt::format("unknown op '{}'", printable(op))));
}

void Supervisor::op_status(const Reply& reply) {
  json disks = json::object();
  for (const auto& [slot, disk] : slots_) disks[disk.id] = slot;
  reply(json({{"runs", runs_.count()},
              {"streams", holders_.list()},
              {"open_files", holders_.transfers()},
              {"agent", agent_.is_ready() ? "ready" : "waiting"},
              {"disks", disks},
              {"shares_memory", shares_memory_},
              {"qemu_pid", qemu_id_.pid},
              {"vcpu_threads", vcpu_threads_}}));
}

void Supervisor::op_run(ControlServer::ConnectionId id, const json& request, const Reply& reply) {
  GuestCommand command;
  auto argv = strings(request, "argv");
  auto env = strings(request, "env");
  auto input = base64_decode(get_string(request, "stdin_b64"));
  if (!argv || argv->empty() || !env || !input)
    return reply(fail(Code::invalid, "run: argv, env or stdin_b64 is malformed"));
  command.argv = std::move(*argv);
  command.env = std::move(*env);
  command.input = std::move(*input);
  command.has_input = request.contains("stdin_b64");
  command.timeout_ns = timeout_of(request);
  command.streams = get_bool(request, "lease");
  if (command.streams && !ports_.has_lease(id))
    return reply(fail(Code::invalid, "run: the connection has no data ports"));
  if (!command.streams) holders_.add(id, control_.peer(id), request);
  start_run(id, std::move(command), reply);
}

void Supervisor::op_power_cut(ControlServer::ConnectionId, const json&, const Reply& reply) {
  quit_replies_.push_back(reply);
  cut_power();
}

void Supervisor::op_qmp(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const json* arguments = find(request, "arguments");
  qmp_->execute(get_string(request, "execute"), arguments ? *arguments : json(),
                timeout_of(request), under("return", reply));
}

void Supervisor::op_agent(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const json* arguments = find(request, "arguments");
  agent_.call(get_string(request, "execute"), arguments ? *arguments : json(), timeout_of(request),
              under("return", reply));
}

void Supervisor::op_unplug(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const auto found = slot_of(request, reply);
  if (!found) return;
  const size_t slot = *found;
  if (const auto going = unplugs_.find(slot); going != unplugs_.end())
    return going->second.replies.push_back(reply);
  const TimerId timer = loop_->after(timeout_of(request), [this, slot] {
    device_kept(slot, "the guest has not released it in time");
  });
  unplugs_[slot] = {timer, slots_[slot].id, {reply}};
  qmp_->execute(
      "device_del", {{"id", device_name(slot)}}, k_qmp_ns, [this, slot](Result<json> result) {
        // Asked once before: the guest may still let go of it.
        const bool pending =
            !result && result.error().message.find("already in the process") != std::string::npos;
        if (!result && !pending) device_kept(slot, result.error().message);
      });
}

// Nullopt when the disk is not there; that has been answered then.
std::optional<size_t> Supervisor::slot_of(const json& request, const Reply& reply) {
  const std::string id = get_string(request, "id");
  for (const auto& [slot, disk] : slots_)
    if (disk.id == id) return slot;
  reply(fail(Code::no_such_disk,
             fmt::format("VM '{}' has no disk '{}' plugged in", plan_.vm.name, printable(id))));
  return std::nullopt;
}

// QEMU's NBD client learns a size when it connects. It notices that the server has hung up, and
// connects again, with its next request; a question about block status (qemu-io's `alloc`) is one
// that the guest does not see. Then block_resize makes the node and the guest's device take it. A
// vhost-user server tells the guest's device itself.
void Supervisor::op_resize(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const auto found = slot_of(request, reply);
  if (!found) return;
  const std::string node = node_name(*found);
  const uint64_t size = get_u64(request, "size_bytes");
  const uint64_t timeout_ns = timeout_of(request);
  const auto resized = [this, size, reply, id = slots_[*found].id](const Result<json>& result) {
    if (!result) return reply(fail(result.error()));
    events_.add("disk_resized", {{"disk", id}, {"size_bytes", size}});
    reply(json::object());
  };
  if (slots_[*found].vhost_user) return resized(json());
  const auto resize = [this, node, size, timeout_ns, reply, resized](const Result<json>& asked) {
    if (!asked) return reply(fail(asked.error()));
    qmp_->execute("block_resize", {{"node-name", node}, {"size", size}}, timeout_ns, resized);
  };
  qmp_->execute("human-monitor-command",
                {{"command-line", fmt::format("qemu-io {} \"alloc 0\"", node)}}, timeout_ns,
                resize);
}

// A guest that has mounted a disc locks the tray: then QEMU only tells it of the wish.
void Supervisor::op_eject(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const auto found = slot_of(request, reply);
  if (!found) return;
  const size_t slot = *found;
  const json tray = {{"id", drive_name(slot)}, {"force", get_bool(request, "force")}};
  const uint64_t timeout_ns = timeout_of(request);
  qmp_->execute("blockdev-open-tray", tray, timeout_ns,
                [this, slot, timeout_ns, reply](const Result<json>& asked) {
                  if (!asked) return reply(fail(asked.error()));
                  remove_medium(slot, timeout_ns, reply);
                });
}

void Supervisor::remove_medium(size_t slot, uint64_t timeout_ns, const Reply& reply) {
  const std::string name = plan_.vm.name + "/" + slots_[slot].id;
  qmp_->execute(
      "blockdev-remove-medium", {{"id", drive_name(slot)}}, timeout_ns,
      [this, slot, name, reply](const Result<json>& result) {
        if (!result && result.error().message.find("is not open") != std::string::npos)
          return reply(
              fail(Code::wrong_state,
                   fmt::format("the guest has locked the tray of '{}'; --force opens it", name)));
        if (!result) return reply(fail(result.error()));
        events_.add("disk_ejected", {{"disk", slots_[slot].id}});
        qmp_->execute("blockdev-del", {{"node-name", node_name(slot)}}, k_qmp_ns,
                      [reply](const Result<json>& deleted) {
                        if (!deleted) return reply(fail(deleted.error()));
                        reply(json::object());
                      });
      });
}

// The guest has let go, whether or not somebody still waits for it.
void Supervisor::device_deleted(size_t slot) {
  remove_backend(slot, [this, slot](Result<json> result) {
    // An ejected disc has no node any more.
    if (!result && result.error().message.find("find node") != std::string::npos)
      result = json::object();
    events_.add("disk_detached", {{"disk", slots_[slot].id}});
    slots_.erase(slot);
    const auto found = unplugs_.find(slot);
    if (found == unplugs_.end()) return;
    const Unplug unplug = std::move(found->second);
    unplugs_.erase(found);
    loop_->cancel(unplug.timer);
    for (const Reply& reply : unplug.replies) {
      if (result)
        reply(json({{"released", true}}));
      else
        reply(fail(result.error()));
    }
  });
}

void Supervisor::device_kept(size_t slot, const std::string& why) {
  const auto found = unplugs_.find(slot);
  if (found == unplugs_.end()) return;
  const Unplug unplug = std::move(found->second);
  unplugs_.erase(found);
  loop_->cancel(unplug.timer);
  for (const Reply& reply : unplug.replies) reply(json({{"released", false}, {"why", why}}));
}

}  // namespace pv::vm
