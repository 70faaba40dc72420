// SPDX-License-Identifier: MIT
#include "target/accounting.hpp"

#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"
#include "vm/client.hpp"
#include "vm/vm_object.hpp"

namespace pv::target {
namespace {

constexpr uint64_t k_status_ns = 5 * k_ns_per_s;
constexpr size_t k_max_proc = 64 << 10;

// Of a process or thread, in user and system mode; nullopt when it is gone.
std::optional<uint64_t> cpu_ms(const std::string& proc) {
  constexpr size_t k_utime = 11, k_stime = 12;
  const std::vector<std::string> fields = stat_fields(proc);
  if (fields.size() <= k_stime) return std::nullopt;
  const uint64_t ticks = std::strtoull(fields[k_utime].c_str(), nullptr, 10) +
                         std::strtoull(fields[k_stime].c_str(), nullptr, 10);
  return ticks * 1000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
}

json rss_bytes(const std::string& proc) {
  const auto text = read_file(proc + "/statm", k_max_proc);
  const auto fields = text ? split(*text, ' ') : std::vector<std::string>{};
  if (fields.size() < 2) return nullptr;
  return std::strtoull(fields[1].c_str(), nullptr, 10) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void add_use(json& document, const json& status) {
  const std::string proc = fmt::format("/proc/{}", get_u64(status, "qemu_pid"));
  document["rss_bytes"] = rss_bytes(proc);
  const auto total = cpu_ms(proc);
  document["cpu_ms"] = total ? json(*total) : json();
  json vcpus = json::array();
  if (const json* threads = find(status, "vcpu_threads"))
    for (const json& thread : *threads) {
      const auto ms = cpu_ms(fmt::format("{}/task/{}", proc, thread.get<int64_t>()));
      vcpus.push_back({{"cpu_ms", ms ? json(*ms) : json()}});
    }
  document["vcpus"] = vcpus;
}

// Requests that the servers of the VM's disks have not answered yet.
uint64_t disk_requests(const RunDir& run, const Object& vm) {
  uint64_t count = 0;
  for (const Object& disk : serve::disks_of_vm(run, vm)) {
    auto client = serve::DiskClient::connect(disk, Deadline::in_ns(k_status_ns));
    if (!client) continue;  // dead or detached: it has none
    const auto info = client->call({{"op", "info"}});
    if (info) count += get_u64(info->value("disk", json::object()), "in_flight");
  }
  return count;
}

}  // namespace

Result<json> live_document(const RunDir& run, const Object& vm) {
  TRY_ASSIGN(json document, vm::vm_document(vm));
  const std::string state = get_string(document, "state");
  if (!vm::is_running(state)) return document;
  auto status = vm::call_supervisor(vm, {{"op", "status"}}, Deadline::in_ns(k_status_ns), "info");
  if (!status && status.error().code == Code::guest_died) return vm::vm_document(vm);
  if (!status) return fail(status.error());
  const json* streams = find(*status, "streams");
  const uint64_t files = get_u64(*status, "open_files");
  const size_t count = streams && streams->is_array() ? streams->size() : 0;
  const uint64_t requests = disk_requests(run, vm);
  document["agent"] = get_string(*status, "agent");
  document["open_files"] = files;
  document["open_streams"] = count;
  document["disk_requests"] = requests;
  document["quiescent"] = count == 0 && files == 0 && requests == 0;
  if (count != 0) document["streams"] = *streams;
  add_use(document, *status);
  return document;
}

}  // namespace pv::target
