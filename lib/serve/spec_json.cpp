// SPDX-License-Identifier: MIT
// A spec as a manifest has it, and back: checked like what comes from a command line, because a
// manifest is foreign.
#include <algorithm>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/params.hpp"
#include "serve/snapshot.hpp"

namespace pv::serve {
namespace {

constexpr size_t k_max_layers = 256;
constexpr uint64_t k_max_sector = 1 << 20;

tl::unexpected<Error> bad(std::string_view what) {
  return fail(Code::snapshot_corrupt,
              "the manifest of the snapshot has no usable disk: " + std::string(what));
}

// What a person is told about flags is here a word about the manifest.
tl::unexpected<Error> bad(const Error& error) {
  return bad(error.message);
}

}  // namespace

json spec_json(const Spec& spec) {
  const bool typed_read_only = spec.read_only && !spec.base_read_only;
  return {{"source", source_json(spec)},
          {"sector_size", spec.sector_size},
          {"physical_sector_size", spec.physical_sector_size},
          {"serial", spec.serial},
          {"uuid", spec.id == blk::DiskId{} ? json() : json(disk_id_text(spec.id))},
          {"host_key", spec.host_key.empty() ? json() : json(spec.host_key)},
          {"layers", spec.layers},
          {"read_only", typed_read_only},
          {"cdrom", spec.cdrom},
          {"transport", transport_name(spec.vhost_user)},
          {"medium", !spec.ejected},
          {"direct", spec.direct},
          {"reconnect_ms", spec.reconnect_ns / k_ns_per_ms}};
}

Result<Spec> spec_from_json(const json& saved) {
  Spec spec;
  const json* source = find(saved, "source");
  const json* layers = find(saved, "layers");
  if (source == nullptr || !source->is_object()) return bad("source");
  if (layers == nullptr || !layers->is_array() || layers->size() > k_max_layers)
    return bad("layers");
  if (auto set = set_source(spec, *source); !set) return bad(set.error());
  bool fault = false;
  for (const json& layer : *layers) {
    if (!layer.is_string()) return bad("layers");
    auto parsed = blk::parse_layer(layer.get<std::string>());
    if (!parsed) return bad(parsed.error());
    fault = fault || parsed->name == "fault";
    spec.layers.push_back(layer.get<std::string>());
  }
  spec.no_fault = !fault;
  const uint64_t sector = get_u64(saved, "sector_size");
  const uint64_t physical = get_u64(saved, "physical_sector_size");
  if (sector > k_max_sector || physical > k_max_sector) return bad("sector sizes");
  spec.sector_size = static_cast<uint32_t>(sector);
  spec.physical_sector_size = static_cast<uint32_t>(physical);
  spec.serial = get_string(saved, "serial");
  if (spec.serial.empty()) return bad("serial");
  if (const std::string uuid = get_string(saved, "uuid"); !uuid.empty()) {
    auto id = parse_disk_id(uuid);
    if (!id) return bad(id.error());
    spec.id = *id;
  }
  spec.host_key = get_string(saved, "host_key");
  spec.read_only = get_bool(saved, "read_only");
  spec.cdrom = get_bool(saved, "cdrom");
  const std::string transport = get_string(saved, "transport", transport_name(false));
  spec.vhost_user = transport == transport_name(true);
  if (transport != transport_name(spec.vhost_user)) return bad("transport");
  spec.ejected = spec.cdrom && !get_bool(saved, "medium", true);
  spec.direct = get_bool(saved, "direct");
  constexpr uint64_t k_day_ms = 24 * 3600 * 1000;
  spec.reconnect_ns = std::min(get_u64(saved, "reconnect_ms"), k_day_ms) * k_ns_per_ms;
  return spec;
}

}  // namespace pv::serve
