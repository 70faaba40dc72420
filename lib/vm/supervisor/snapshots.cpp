// SPDX-License-Identifier: MIT
#include "vm/supervisor/snapshots.hpp"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/device_state.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {
namespace {

constexpr const char* k_front_file = "front";      // of the VM's first state
constexpr const char* k_devices_file = "devices";  // on its way from QEMU
constexpr const char* k_sink_socket = "mig.sock";
constexpr uint64_t k_look_again_ns = k_ns_per_ms;

// "vd0" in "/machine/peripheral/vd0/virtio-backend".
std::string device_of(const std::string& path) {
  constexpr std::string_view k_prefix = "/machine/peripheral/";
  if (path.rfind(k_prefix, 0) != 0) return "";
  return path.substr(k_prefix.size(), path.find('/', k_prefix.size()) - k_prefix.size());
}

Result<Fd> new_file(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("cannot create " + path, errno);
  return fd;
}

}  // namespace

json state_capabilities() {
  const auto on = [](const char* name) { return json{{"capability", name}, {"state", true}}; };
  return {{"capabilities", json::array({on("x-ignore-shared"), on("events")})}};
}

void Snapshots::set_front(Fd state, size_t bytes) {
  front_ = std::move(state);
  front_bytes_ = bytes;
}

void Snapshots::request(Owner owner, const json& request, const Reply& reply) {
  const std::string op = get_string(request, "op");
  if (busy() && owner != owner_)
    return reply(fail(Code::wrong_state, "another snapshot is being taken"));
  if (op == "snap.check") {
    owner_ = owner;
    return check(request, reply);
  }
  if (!busy() || dir_.empty()) return reply(fail(Code::wrong_state, "snap.check comes first"));
  if (op == "snap.stop") return stop(request, reply);
  if (op == "snap.save" && stopping_) return save(request, reply);
  if (op == "snap.ram" && stopping_ && ram_file_) return reply(save_ram());
  if (op == "snap.end") return end(reply);
  reply(fail(Code::invalid, fmt::format("'{}' cannot come now", printable(op))));
}

// What ends by itself in a moment is waited for.
void Snapshots::check(const json& request, const Reply& reply) {
  const uint64_t timeout_ns = timeout_of(request);
  if (const auto obstacle = parts_.obstacle(); !obstacle) {
    const bool passing = obstacle.error().code == Code::in_use;
    if (!passing || timeout_ns < k_look_again_ns) {
      owner_ = 0;
      return reply(fail(obstacle.error()));
    }
    json later = request;
    later["timeout_ms"] = (timeout_ns - k_look_again_ns) / k_ns_per_ms;
    parts_.loop.after(k_look_again_ns, [this, owner = owner_, later, reply] {
      if (owner_ == owner) check(later, reply);
    });
    return;
  }
  dir_ = get_string(request, "dir");
  const auto prepared = [&]() -> Result<> {
    TRY_ASSIGN(ram_file_, new_file(dir_ + "/ram"));
    return ram_.prepare(ram_file_.get(), get_u64(request, "memory_bytes"));
  }();
  if (!prepared) {
    forget();
    return reply(fail(prepared.error()));
  }
  count_flushes(timeout_ns, reply);
}

void Snapshots::count_flushes(uint64_t timeout_ns, const Reply& reply) {
  parts_.qmp->execute("query-blockstats", nullptr, timeout_ns, [this, reply](Result<json> result) {
    if (!result) return reply(fail(result.error()));
    json flushes = json::object();
    for (const auto& [slot, disk] : parts_.disks)
      if (!disk.vhost_user) flushes[disk.id] = 0;
    for (const json& entry : *result) {
      const json* stats = find(entry, "stats");
      if (!stats) continue;
      uint64_t count = 0;
      for (const char* key :
           {"flush_operations", "failed_flush_operations", "invalid_flush_operations"})
        count += get_u64(*stats, key);
      const std::string device = device_of(get_string(entry, "qdev"));
      for (const auto& [slot, disk] : parts_.disks)
        if (device == device_name(slot)) flushes[disk.id] = count;
    }
    reply(json({{"flushes", flushes}}));
  });
}

void Snapshots::stop(const json& request, const Reply& reply) {
  if (stopping_) return reply(fail(Code::wrong_state, "its CPUs stand still already"));
  // Somebody may have come in since the check.
  if (const auto obstacle = parts_.obstacle(); !obstacle) return reply(fail(obstacle.error()));
  stopping_ = true;
  was_running_ = !parts_.is_paused();
  stopped_ns_ = system_clock().now_ns();
  parts_.qmp->execute("stop", nullptr, timeout_of(request),
                      [this, timeout_ns = timeout_of(request), reply](Result<json> result) {
                        if (!result) return reply(fail(result.error()));
                        count_flushes(timeout_ns, reply);
                      });
}

void Snapshots::save(const json& request, const Reply& reply) {
  const uint64_t timeout_ns = timeout_of(request);
  if (front_) return save_devices(timeout_ns, reply);
  parts_.qmp->execute("migrate-set-capabilities", state_capabilities(), timeout_ns,
                      [this, timeout_ns, reply](Result<json> result) {
                        if (!result) return reply(fail(result.error()));
                        save_all(timeout_ns, reply);
                      });
}

// The first time: by migration, which says what the firmware's memory holds.
void Snapshots::save_all(uint64_t timeout_ns, const Reply& reply) {
  const std::string path = parts_.vm.path(k_sink_socket);
  migrating_ = reply;
  stream_.reset();
  completed_ = false;
  const auto wrong = [this](const Error& error) {
    sink_.stop();
    if (const auto waiting = std::exchange(migrating_, std::nullopt)) (*waiting)(fail(error));
  };
  auto listening = sink_.start(path, k_max_device_state, [this, wrong](Result<std::string> bytes) {
    if (!bytes) return wrong(bytes.error());
    stream_ = std::move(*bytes);
    migrate_if_done();
  });
  if (!listening) return wrong(listening.error());
  parts_.qmp->execute("migrate", {{"uri", "unix:" + path}}, timeout_ns,
                      [wrong](const Result<json>& result) {
                        if (!result) wrong(result.error());
                      });
}

void Snapshots::on_event(const json& data) {
  const std::string status = get_string(data, "status");
  if (!migrating_) return;
  completed_ = completed_ || status == "completed";
  if (status == "failed") {
    sink_.stop();
    const auto reply = std::exchange(migrating_, std::nullopt);
    return (*reply)(fail(Code::qmp, "QEMU cannot save the state of this machine's devices"));
  }
  migrate_if_done();
}

void Snapshots::migrate_if_done() {
  if (!migrating_ || !stream_ || !completed_) return;
  const std::string stream = std::move(*stream_);
  stream_.reset();
  const auto reply = std::exchange(migrating_, std::nullopt);
  if (auto kept = keep_front(stream); !kept) return (*reply)(fail(kept.error()));
  (*reply)(finish_save(stream));
}

Result<> Snapshots::keep_front(const std::string& stream) {
  TRY_ASSIGN(const size_t bytes, end_of_ram(stream));
  const std::string path = parts_.vm.path(k_front_file);
  TRY(write_file_atomic(path, std::string_view(stream).substr(0, bytes)));
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + path, errno);
  set_front(std::move(fd), bytes);
  return {};
}

void Snapshots::save_devices(uint64_t timeout_ns, const Reply& reply) {
  const std::string path = parts_.vm.path(k_devices_file);
  parts_.qmp->execute("xen-save-devices-state", {{"filename", path}, {"live", false}}, timeout_ns,
                      [this, path, reply](const Result<json>& result) {
                        if (!result) return reply(fail(result.error()));
                        reply([&]() -> Result<json> {
                          TRY_ASSIGN(const std::string devices,
                                     read_file(path, k_max_device_state));
                          unlink(path.c_str());
                          std::string front(front_bytes_, '\0');
                          if (pread(front_.get(), front.data(), front.size(), 0) !=
                              static_cast<ssize_t>(front.size()))
                            return fail_errno("cannot read the state it was restored from", errno);
                          TRY_ASSIGN(const std::string stream, join_device_state(front, devices));
                          return finish_save(stream);
                        }());
                      });
}

Result<json> Snapshots::finish_save(const std::string& stream) {
  if (dir_.empty()) return fail(Code::aborted, "nobody waits for the snapshot any more");
  TRY_ASSIGN(const Fd state, new_file(dir_ + "/state"));
  TRY(write_all(state.get(), stream));
  return json({{"devices", parts_.devices()},
               {"was_paused", !was_running_},
               {"ram_from", ram_.is_mapped() ? "snapshot" : "memory"}});
}

Result<json> Snapshots::save_ram() {
  const Fd file = std::move(ram_file_);
  TRY(ram_.save(file.get()));
  return json::object();
}

void Snapshots::end(const Reply& reply) {
  const uint64_t since_ns = stopped_ns_;
  const bool go_on = stopping_ && was_running_;
  const auto done = [this, since_ns, reply](const Result<json>& result) {
    stopping_ = false;
    forget();
    if (!result) return reply(fail(result.error()));
    const uint64_t ns = since_ns == 0 ? 0 : system_clock().now_ns() - since_ns;
    reply(json({{"paused_ms", static_cast<double>(ns / 1000) / 1000}}));
  };
  if (!go_on) return done(json());
  parts_.qmp->execute("cont", nullptr, k_qmp_ns, done);
}

void Snapshots::ended(Owner owner) {
  if (owner_ != owner) return;
  const Reply nobody([](const Result<json>&, const std::string&) {});
  // QEMU cannot go on in the middle of a migration.
  if (migrating_)
    migrating_.emplace([this, nobody](const Result<json>&, const std::string&) { end(nobody); });
  else
    end(nobody);
}

void Snapshots::forget() {
  owner_ = 0;
  dir_.clear();
  ram_file_.reset();
  stopped_ns_ = 0;
  parts_.over();
}

}  // namespace pv::vm
