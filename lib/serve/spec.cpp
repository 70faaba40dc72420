// SPDX-License-Identifier: MIT
#include "serve/spec.hpp"

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/checked.hpp"
#include "blk/format.hpp"
#include "blk/registry.hpp"
#include "blk/uri.hpp"
#include "serve/blockdev.hpp"

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

// Of sixteen bytes a serial has room for the first ten, as hexadecimal digits.
std::string serial_for(const blk::DiskId& id) {
  std::string text;
  for (size_t i = 0; i < k_max_serial / 2; ++i) text += fmt::format("{:02x}", id[i]);
  return text;
}

// --image names a file, or something else by its URI.
Result<> set_image(Spec& spec, const SourceFlags& flags) {
  const bool copied = flags.image.empty();
  const std::string& name = copied ? flags.template_path : flags.image;
  spec.format = flags.format;
  if (!flags.key_file.empty()) spec.key_file = absolute_path(flags.key_file);
  if (!blk::is_uri(name)) {
    spec.type = copied ? "template" : "image";
    spec.path = absolute_path(name);
    return {};
  }
  if (copied) return fail(Code::usage, "--template takes a file, not the URI " + name);
  TRY(blockdev_of_uri(name));
  spec.type = "uri";
  spec.uri = name;
  if (!spec.format.empty()) return {};
  // There is no content to look at before it is open: the name alone speaks.
  const std::string path = name.substr(0, name.find_first_of("?#"));
  spec.format = path.rfind("nbd", 0) == 0 ? "raw" : blk::format_of_extension(path);
  return {};
}

}  // namespace

Result<blk::DiskId> parse_disk_id(std::string_view text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    // The hyphens of a UUID, RFC 4122: all four or none.
    const bool hyphen = text.size() == 36 && (i == 8 || i == 13 || i == 18 || i == 23);
    if (!hyphen || text[i] != '-') digits += text[i];
  }
  blk::DiskId id{};
  if (digits.size() != 2 * id.size() ||
      digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    return fail(Code::usage, fmt::format("disk id '{}' is neither a UUID nor 32 hexadecimal digits",
                                         printable(text)));
  for (size_t i = 0; i < id.size(); ++i)
    id[i] = static_cast<uint8_t>(std::stoul(digits.substr(2 * i, 2), nullptr, 16));
  if (id == blk::DiskId{}) return fail(Code::usage, "a disk id of all zeroes means none");
  return id;
}

std::string disk_id_text(const blk::DiskId& id) {
  std::string text;
  for (size_t i = 0; i < id.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", id[i]);
  }
  return text;
}

Result<> set_source(Spec& spec, const SourceFlags& flags) {
  std::vector<std::string> given;
  if (!flags.image.empty()) given.push_back("--image " + flags.image);
  if (!flags.scratch.empty()) given.push_back("--scratch " + flags.scratch);
  if (!flags.template_path.empty()) given.push_back("--template " + flags.template_path);
  if (!flags.memory.empty()) given.push_back("--memory " + flags.memory);
  if (!flags.blockdev.empty()) given.push_back("--blockdev " + flags.blockdev);
  if (given.size() != 1)
    return fail(Code::usage,
                fmt::format("a disk has exactly one source (--image, --scratch, --template, "
                            "--memory or --blockdev); given: {}",
                            given.empty() ? "none" : join(given, ", ")));
  if (!flags.image.empty() || !flags.template_path.empty()) return set_image(spec, flags);
  if (!flags.format.empty()) return fail(Code::usage, "--format belongs to --image or --template");
  if (!flags.blockdev.empty()) {
    TRY(blockdev_of_user(flags.blockdev, false));
    spec.type = "blockdev";
    spec.blockdev = flags.blockdev;
    if (!flags.key_file.empty()) spec.key_file = absolute_path(flags.key_file);
    return {};
  }
  if (!flags.key_file.empty())
    return fail(Code::usage, "--key-file belongs to --image, --template or --blockdev");
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
  if (type == "uri") flags.image = get_string(source, "uri");
  if (const json* node = find(source, "blockdev"); node && type == "blockdev")
    flags.blockdev = to_line(*node);
  if (type == "image" || type == "template" || type == "uri")
    flags.format = get_string(source, "format");
  flags.key_file = get_string(source, "key_file");
  if (!flags.any())
    return fail(Code::bad_document, fmt::format("disk.source has no usable type ('{}')", type));
  return set_source(spec, flags);
}

namespace {

// What the next server is to find again cannot be in the memory of the one that died.
Result<> check_survives(const Spec& spec, const std::vector<blk::LayerSpec>& layers) {
  if (spec.type == "memory")
    return fail(Code::usage, "--restart and --memory exclude each other: the data would be gone");
  for (const blk::LayerSpec& layer : layers)
    if (layer.name == "cow" && layer.params.count("file") == 0)
      return fail(Code::usage,
                  "--restart needs a file for --layer cow: a temporary overlay would be gone");
  return {};
}

}  // namespace

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
  if (spec.serial.empty() && spec.id != blk::DiskId{}) spec.serial = serial_for(spec.id);
  if (spec.direct && (spec.type == "memory" || spec.type == "uri" || spec.type == "blockdev"))
    return fail(Code::usage, "--direct is for files and block devices");
  if (spec.serial.empty()) spec.serial = serial_for(id);
  if (spec.serial.size() > k_max_serial)
    return fail(Code::invalid,
                fmt::format("serial '{}' has {} characters; a guest sees at most {}, and QEMU "
                            "would cut it silently",
                            spec.serial, spec.serial.size(), k_max_serial));
  if (!spec.host_key.empty()) TRY(check_name("--host-key", spec.host_key));
  if (spec.cdrom && spec.vhost_user)
    return fail(Code::usage, "a CD drive has no vhost-user: it is served over NBD");
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
  if (spec.restart) TRY(check_survives(spec, layers));
  spec.base_read_only = blk::base_needs(layers, blk::k_base_read_only);
  if (spec.base_read_only && spec.read_only)
    return fail(Code::usage,
                "--read-only and --layer cow exclude each other: below cow nothing is written "
                "anyway, and above it changes are what it is for");
  if (spec.type == "uri" && is_read_only_scheme(spec.uri.substr(0, spec.uri.find(':'))))
    spec.read_only = !spec.base_read_only;
  if (has_fault && spec.no_fault)
    return fail(Code::usage, "--no-fault and --layer fault exclude each other");
  if (!has_fault && !spec.no_fault) spec.layers.insert(spec.layers.begin(), "fault");
  return {};
}

const char* transport_name(bool vhost_user) {
  return vhost_user ? "vhost-user" : "nbd";
}

json source_json(const Spec& spec) {
  json source = {{"type", spec.type}};
  if (!spec.path.empty()) source["path"] = spec.path;
  if (!spec.uri.empty()) source["uri"] = spec.uri;
  if (!spec.blockdev.empty()) source["blockdev"] = json::parse(spec.blockdev);
  if (!spec.format.empty()) source["format"] = spec.format;
  if (!spec.key_file.empty()) source["key_file"] = spec.key_file;
  if (spec.size != 0) source["size_bytes"] = spec.size;
  return source;
}

}  // namespace pv::serve
