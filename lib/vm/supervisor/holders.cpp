// SPDX-License-Identifier: MIT
#include "vm/supervisor/holders.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_text = 200;
constexpr size_t k_max_cmdline = 4 << 20;
constexpr std::string_view k_kinds[] = {"run", "put", "get", "tail"};

std::string command_line(pid_t pid) {
  std::string text = read_file(fmt::format("/proc/{}/cmdline", pid), k_max_cmdline).value_or("");
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text.substr(0, k_max_text);
}

}  // namespace

void Holders::add(Id id, pid_t pid, const json& request) {
  Holder holder;
  const std::string kind = get_string(request, "kind", "run");
  holder.kind = std::find(std::begin(k_kinds), std::end(k_kinds), kind) != std::end(k_kinds)
                    ? kind
                    : std::string("run");
  holder.pid = pid;
  holder.command = command_line(pid);
  holder.caller = get_string(request, "caller").substr(0, k_max_text);
  holder.since_ns = system_clock().wall_ns();
  holders_[id] = std::move(holder);
}

const Holder* Holders::find(Id id) const {
  const auto found = holders_.find(id);
  return found == holders_.end() ? nullptr : &found->second;
}

size_t Holders::transfers() const {
  return static_cast<size_t>(std::count_if(holders_.begin(), holders_.end(), [](const auto& item) {
    return item.second.kind == "put" || item.second.kind == "get";
  }));
}

json Holders::list() const {
  json all = json::array();
  for (const auto& [id, holder] : holders_) {
    json item = {{"kind", holder.kind}, {"pid", holder.pid}, {"command", holder.command}};
    if (!holder.caller.empty()) item["caller"] = holder.caller;
    item["since_ns"] = std::to_string(holder.since_ns);
    all.push_back(std::move(item));
  }
  return all;
}

}  // namespace pv::vm
