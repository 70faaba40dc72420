// SPDX-License-Identifier: MIT
#include "serve/spec.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/checked.hpp"
#include "blk/registry.hpp"

namespace pv::serve {
namespace {

constexpr size_t k_max_serial = 20;  // VIRTIO_BLK_ID_BYTES, include/uapi/linux/virtio_blk.h

// A serial for an id that is too long to be one: readable start, hashed rest.
std::string serial_for(const std::string& id) {
  if (id.size() <= k_max_serial) return id;
  uint64_t hash = 0;
  for (char c : id) hash = mix(hash, static_cast<unsigned char>(c));
  return fmt::format("{}-{:08x}", id.substr(0, 11), static_cast<uint32_t>(hash));
}

}  // namespace

Result<> set_source(Spec& spec, const SourceFlags& flags) {
  std::vector<std::string> given;
  if (!flags.image.empty()) given.push_back("--image " + flags.image);
  if (!flags.scratch.empty()) given.push_back("--scratch " + flags.scratch);
  if (!flags.template_path.empty()) given.push_back("--template " + flags.template_path);
  if (!flags.memory.empty()) given.push_back("--memory " + flags.memory);
  if (given.size() != 1)
    return fail(Code::usage,
                fmt::format("a disk has exactly one source (--image, --scratch, --template or "
                            "--memory); given: {}",
                            given.empty() ? "none" : join(given, ", ")));
  if (!flags.image.empty() || !flags.template_path.empty()) {
    spec.type = flags.image.empty() ? "template" : "image";
    spec.path = absolute_path(flags.image.empty() ? flags.template_path : flags.image);
    spec.format = flags.format;
    return {};
  }
  if (!flags.format.empty()) return fail(Code::usage, "--format belongs to --image or --template");
  spec.type = flags.scratch.empty() ? "memory" : "scratch";
  TRY_ASSIGN(spec.size, parse_size(flags.scratch.empty() ? flags.memory : flags.scratch));
  return {};
}

Result<> set_source(Spec& spec, const json& source) {
  SourceFlags flags;
  const std::string type = get_string(source, "type");
  const std::string path = get_string(source, "path");
  const std::string size = std::to_string(get_u64(source, "size_bytes"));
  if (type == "image") flags.image = path;
  if (type == "template") flags.template_path = path;
  if (type == "scratch") flags.scratch = size;
  if (type == "memory") flags.memory = size;
  if (type == "image" || type == "template") flags.format = get_string(source, "format");
  if (!flags.any())
    return fail(Code::bad_document, fmt::format("disk.source has no usable type ('{}')", type));
  return set_source(spec, flags);
}

Result<> complete(Spec& spec, const std::string& id) {
  if (spec.physical_sector_size == 0) spec.physical_sector_size = spec.sector_size;
  blk::Geometry geometry;
  geometry.sector_size = spec.sector_size;
  geometry.physical_sector_size = spec.physical_sector_size;
  geometry.size = spec.sector_size;
  TRY(blk::check_geometry(geometry));
  if (spec.type == "scratch" || spec.type == "memory") {
    geometry.size = spec.size;
    TRY(blk::check_geometry(geometry));
  }
  if (spec.serial.empty()) spec.serial = serial_for(id);
  if (spec.serial.size() > k_max_serial)
    return fail(Code::invalid,
                fmt::format("serial '{}' has {} characters; a guest sees at most {}, and QEMU "
                            "would cut it silently",
                            spec.serial, spec.serial.size(), k_max_serial));
  bool has_fault = false;
  std::vector<blk::LayerSpec> layers;
  for (std::string& text : spec.layers) {
    TRY_ASSIGN(blk::LayerSpec layer, blk::parse_layer(text));
    blk::absolute_paths(layer);
    text = blk::layer_text(layer);
    has_fault = has_fault || layer.name == "fault";
    layers.push_back(std::move(layer));
  }
  TRY(blk::check_layers(layers));
  spec.base_read_only = blk::base_needs(layers, blk::k_base_read_only);
  if (spec.base_read_only && spec.read_only)
    return fail(Code::usage,
                "--read-only and --layer cow exclude each other: below cow nothing is written "
                "anyway, and above it changes are what it is for");
  if (has_fault && spec.no_fault)
    return fail(Code::usage, "--no-fault and --layer fault exclude each other");
  if (!has_fault && !spec.no_fault) spec.layers.insert(spec.layers.begin(), "fault");
  return {};
}

json source_json(const Spec& spec) {
  json source = {{"type", spec.type}};
  if (!spec.path.empty()) source["path"] = spec.path;
  if (!spec.format.empty()) source["format"] = spec.format;
  if (spec.size != 0) source["size_bytes"] = spec.size;
  return source;
}

}  // namespace pv::serve
