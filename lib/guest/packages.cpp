// SPDX-License-Identifier: MIT
#include "guest/packages.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"

namespace pv::guest {
namespace {

constexpr const char* k_busybox = "busybox-static";
constexpr const char* k_agent = "qemu-guest-agent";
constexpr std::string_view k_image_prefix = "linux-image-";
constexpr size_t k_max_memo = size_t{4} << 20;

// Follows packages that only name another ("linux-image-cloud-amd64") to the one with the kernel.
std::string real_kernel(const DependencyGraph& graph, std::string name) {
  constexpr int k_most_steps = 4;
  for (int i = 0; i < k_most_steps; ++i) {
    const auto node = graph.find(name);
    if (node == graph.end()) break;
    std::string next;
    for (const std::string& each : node->second)
      if (next.empty() && each.compare(0, k_image_prefix.size(), k_image_prefix) == 0) next = each;
    if (next.empty()) break;
    name = next;
  }
  return name;
}

// The agent and every library package below it. Others ("perl") belong to how it is installed.
std::vector<std::string> agent_packages(const DependencyGraph& graph) {
  std::vector<std::string> queue = {k_agent};
  std::set<std::string> seen = {k_agent};
  for (size_t i = 0; i < queue.size(); ++i) {
    const auto node = graph.find(queue[i]);
    if (node == graph.end()) continue;
    for (const std::string& each : node->second)
      if ((each.compare(0, 3, "lib") == 0 || each.compare(0, 5, "zlib1") == 0) &&
          seen.insert(each).second)
        queue.push_back(each);
  }
  std::sort(queue.begin() + 1, queue.end());
  return queue;
}

json to_json(const std::vector<PartPackages>& parts) {
  json rows = json::array();
  for (const PartPackages& each : parts)
    for (const Package& package : each.packages)
      rows.push_back({{"part", part_name(each.part)},
                      {"name", package.name},
                      {"file", package.file},
                      {"size_bytes", package.size_bytes}});
  return rows;
}

std::vector<PartPackages> from_json(const json& rows) {
  std::vector<PartPackages> parts;
  for (const Part part : k_parts) {
    PartPackages row{part, {}};
    for (const json& each : rows)
      if (get_string(each, "part") == part_name(part))
        row.packages.push_back(
            {get_string(each, "name"), get_string(each, "file"), get_u64(each, "size_bytes")});
    if (!row.packages.empty()) parts.push_back(std::move(row));
  }
  return parts;
}

}  // namespace

const char* part_name(Part part) {
  switch (part) {
    case Part::kernel:
      return "kernel";
    case Part::busybox:
      return "busybox";
    case Part::agent:
      return "agent";
  }
  return "?";
}

PackageStore::PackageStore(const Cache& cache, std::function<void(std::string_view)> progress)
    : cache_(cache), progress_(std::move(progress)), apt_(cache.apt()) {}

Result<std::vector<PartPackages>> PackageStore::resolve(const std::string& kernel, bool fresh,
                                                        const Deadline& deadline) {
  const std::string stamp = apt_.stamp();
  if (!fresh && !stamp.empty())
    if (auto known = recall(kernel, stamp); !known.empty()) return known;
  progress_("looking up packages");
  auto parts = ask_apt(kernel, deadline);
  if (!parts && parts.error().code == Code::unavailable && stamp.empty()) {
    progress_("getting package lists");
    if (auto refreshed = apt_.refresh(deadline); refreshed)
      parts = ask_apt(kernel, deadline);
    else
      parts = fail(refreshed.error());
  }
  if (!parts) {
    // No lists and no network: what was resolved last time is as good as anything.
    auto known = recall(kernel, "");
    if (!known.empty() && parts.error().code == Code::unavailable) return known;
    return parts;
  }
  remember(kernel, *parts);
  return parts;
}

Result<std::vector<PartPackages>> PackageStore::ask_apt(const std::string& kernel,
                                                        const Deadline& deadline) {
  std::vector<std::string> roots = {k_agent, k_busybox};
  if (!kernel.empty()) roots.push_back(kernel);
  TRY_ASSIGN(const DependencyGraph graph, apt_.dependencies(roots, deadline));
  for (const std::string& root : roots)
    if (graph.count(root) == 0)
      return fail(Code::unavailable,
                  fmt::format("package {} is not in this machine's package lists{}", root,
                              apt_.stamp().empty() ? ", which are empty" : ""));
  std::vector<std::string> names = agent_packages(graph);
  const size_t agent_count = names.size();
  names.emplace_back(k_busybox);
  if (!kernel.empty()) names.push_back(real_kernel(graph, kernel));
  TRY_ASSIGN(const std::vector<Package> found, apt_.candidates(names, deadline));
  std::vector<PartPackages> parts;
  const auto end_of_agent = found.begin() + static_cast<ptrdiff_t>(agent_count);
  if (!kernel.empty()) parts.push_back({Part::kernel, {found.back()}});
  parts.push_back({Part::busybox, {*end_of_agent}});
  parts.push_back({Part::agent, {found.begin(), end_of_agent}});
  return parts;
}

std::vector<PartPackages> PackageStore::recall(const std::string& kernel,
                                               const std::string& stamp) const {
  const auto text = read_file(cache_.packages() + "/resolved.json", k_max_memo);
  if (!text) return {};
  const auto memo = parse_json(*text);
  if (!memo || (!stamp.empty() && get_string(*memo, "stamp") != stamp)) return {};
  const json* requests = pv::find(*memo, "requests");
  const json* rows = requests ? pv::find(*requests, kernel.empty() ? "-" : kernel) : nullptr;
  if (!rows || !rows->is_array()) return {};
  return from_json(*rows);
}

// Best effort: without it the next build asks apt again.
void PackageStore::remember(const std::string& kernel,
                            const std::vector<PartPackages>& parts) const {
  const std::string path = cache_.packages() + "/resolved.json";
  const std::string stamp = apt_.stamp();
  json memo = {{"stamp", stamp}, {"requests", json::object()}};
  if (const auto text = read_file(path, k_max_memo))
    if (const auto old = parse_json(*text); old && get_string(*old, "stamp") == stamp)
      if (const json* requests = pv::find(*old, "requests"); requests && requests->is_object())
        memo["requests"] = *requests;
  memo["requests"][kernel.empty() ? "-" : kernel] = to_json(parts);
  [[maybe_unused]] const auto written = write_file_atomic(path, to_line(memo) + "\n");
}

bool PackageStore::have(const Package& package) const {
  struct stat st {};
  const std::string path = cache_.packages() + "/" + package.file;
  return stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
         static_cast<uint64_t>(st.st_size) == package.size_bytes;
}

bool PackageStore::have_all(const std::vector<Package>& packages) const {
  return std::all_of(packages.begin(), packages.end(),
                     [&](const Package& package) { return have(package); });
}

Result<> PackageStore::fetch(const std::vector<Package>& packages, const Deadline& deadline) {
  remove_leftovers(cache_.packages());
  std::vector<Package> missing;
  for (const Package& package : packages)
    if (!have(package)) missing.push_back(package);
  if (missing.empty()) return {};
  for (const Package& package : missing) progress_("downloading " + package.file);
  TRY_ASSIGN(const std::string dir, make_temp_dir(cache_.packages()));
  DEFER(remove_tree(dir));
  TRY(apt_.download(missing, dir, deadline));
  for (const std::string& file : list_dir(dir)) {
    const std::string to = cache_.packages() + "/" + file;
    if (rename((dir + "/" + file).c_str(), to.c_str()) < 0)
      return fail_errno("cannot keep " + to, errno);
  }
  for (const Package& package : missing)
    if (!have(package))
      return fail(Code::unavailable,
                  fmt::format("cannot download packages: {} did not arrive", package.file));
  return {};
}

Result<> PackageStore::unpack(const Package& package, const std::string& root,
                              const Deadline& deadline) const {
  const std::string path = cache_.packages() + "/" + package.file;
  TRY_ASSIGN(const Output output, run_program({"dpkg-deb", "-x", path, root}, deadline));
  if (output.status.code == 0 && output.status.signal == 0) return {};
  constexpr std::string_view k_full = "No space left on device";
  if (output.err.find(k_full) != std::string::npos)
    return fail(
        Error(Code::system, fmt::format("cannot unpack {}: {}", package.file, k_full), ENOSPC));
  std::string why = printable(output.err.substr(0, output.err.find('\n')));
  // A broken file would be found broken for ever.
  unlink(path.c_str());
  return fail(Code::unavailable, fmt::format("cannot unpack {}: {}", package.file, why));
}

}  // namespace pv::guest
