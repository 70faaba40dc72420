// SPDX-License-Identifier: MIT
#include "blk/registry.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/checked.hpp"
#include "blk/layer/layers.hpp"
#include "blk/private.hpp"
#include "blk/uri.hpp"

namespace pv::blk {
namespace {

// Layers that answer from a store of their own, write later on in nobody's name, or use other
// images besides.
constexpr const char* k_hosts_are_lost_below[] = {"cache", "cow", "mirror", "readcache", "stripe"};

const LayerRow k_layers[] = {
    {"cache", "holds writes in memory until a flush", cache_params(), Sight::passes, make_cache},
    {"cow", "keeps changes in an overlay", cow_params(), Sight::passes, make_cow, k_base_read_only},
    {"crypt", "encrypts every sector", crypt_params(), Sight::looks, make_crypt},
    {"delay", "adds latency to every request", delay_params(), Sight::passes, make_delay},
    {"discard", "what a discard does, and what is said of it", discard_params(), Sight::passes,
     make_discard},
    {"fault", "misbehaves by rule; idle without rules", fault_params(), Sight::by_request,
     make_fault},
    {"fua", "FUA ignored and declared so, or made of write and flush", fua_params(), Sight::passes,
     make_fua},
    {"history", "checks what is read by what was written", history_params(), Sight::looks,
     make_history},
    {"mirror", "compares with a reference", mirror_params(), Sight::looks, make_mirror,
     k_base_identity},
    {"readcache", "keeps what was read from a slow disk", readcache_params(), Sight::looks,
     make_readcache},
    {"readonly", "refuses every change", readonly_params(), Sight::passes, make_readonly},
    {"record", "logs what changes the disk", record_params(), Sight::looks, make_record},
    {"reserve", "persistent reservations, host by host", reserve_params(), Sight::passes,
     make_reserve, 0, k_hosts_are_lost_below, "it would not see every request, or not whose it is"},
    {"stats", "counts and times what passes", stats_params(), Sight::passes, make_stats},
    {"stripe", "spreads chunks over several images", stripe_params(), Sight::passes, make_stripe},
    {"throttle", "limits operations and bytes a second", throttle_params(), Sight::passes,
     make_throttle},
};

const LayerRow* find_layer(std::string_view name) {
  for (const LayerRow& row : k_layers)
    if (row.name == name) return &row;
  return nullptr;
}

Result<> check_layer(const LayerSpec& layer) {
  if (const LayerRow* row = find_layer(layer.name)) return check_params(layer, row->params);
  std::vector<std::string> known;
  for (const LayerRow& row : k_layers) known.emplace_back(row.name);
  return fail(Error(Code::usage,
                    fmt::format("unknown layer '{}' (layers: {})", layer.name, join(known, " ")))
                  .with("valid", known));
}

Result<> check_order(const LayerSpec& layer, std::span<const LayerSpec> further_out) {
  const LayerRow& row = *find_layer(layer.name);
  for (const LayerSpec& outer : further_out) {
    for (const char* name : row.never_below)
      if (outer.name == name)
        return fail(Code::usage, fmt::format("layer '{}' cannot stand below '{}': {}", layer.name,
                                             name, row.never_below_why));
  }
  return {};
}

}  // namespace

std::span<const LayerRow> layers() {
  return k_layers;
}

Result<> check_layers(std::span<const LayerSpec> outermost_first) {
  for (size_t i = 0; i < outermost_first.size(); ++i) {
    TRY(check_layer(outermost_first[i]));
    TRY(check_order(outermost_first[i], outermost_first.first(i)));
  }
  return {};
}

bool base_needs(std::span<const LayerSpec> layers, unsigned need) {
  return std::any_of(layers.begin(), layers.end(), [&](const LayerSpec& layer) {
    const LayerRow* row = find_layer(layer.name);
    return row != nullptr && (row->needs & need) == need;
  });
}

void absolute_paths(LayerSpec& layer) {
  const LayerRow* row = find_layer(layer.name);
  if (row == nullptr) return;
  for (const ParamSpec& param : row->params) {
    const auto given = layer.params.find(param.key);
    if (param.kind == ParamSpec::text || given == layer.params.end()) continue;
    if (param.kind == ParamSpec::path) {
      if (!is_uri(given->second)) given->second = absolute_path(given->second);
      continue;
    }
    std::vector<std::string> paths = split_doubled(given->second, '+');
    for (std::string& path : paths)
      if (!path.empty() && !is_uri(path)) path = absolute_path(path);
    given->second = join_doubled(paths, '+');
  }
}

Result<std::unique_ptr<Disk>> build_stack(std::unique_ptr<Disk> bottom,
                                          std::span<const LayerSpec> outermost_first,
                                          const Env& env, bool audit) {
  TRY(check_layers(outermost_first));
  TRY(check_geometry(bottom->geometry()));
  std::unique_ptr<Disk> top = audit ? make_audited(std::move(bottom)) : std::move(bottom);
  for (size_t i = outermost_first.size(); i-- > 0;) {
    const LayerSpec& spec = outermost_first[i];
    const LayerRow& row = *find_layer(spec.name);
    TRY_ASSIGN(top, row.make(std::move(top), spec, env));
    if (row.sight != Sight::passes)
      top = make_private(std::move(top), /*always=*/row.sight == Sight::looks);
    if (audit) top = make_audited(std::move(top));
  }
  return audit ? std::move(top) : make_checked(std::move(top));
}

}  // namespace pv::blk
