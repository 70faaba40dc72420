// SPDX-License-Identifier: MIT
#include "serve/snapshot.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/disk.hpp"
#include "blk/params.hpp"
#include "blk/state.hpp"
#include "serve/put_back.hpp"
#include "serve/snap_base.hpp"
#include "serve/snap_target.hpp"

#define XXH_INLINE_ALL
#include <algorithm>
#include <cerrno>
#include <xxhash.h>

namespace pv::serve {
namespace {

constexpr size_t k_max_state = 256 << 20;
constexpr size_t k_snapshot_max_files = 64;

tl::unexpected<Error> corrupt(std::string what) {
  return fail(Code::snapshot_corrupt, std::move(what));
}

// A name of our own in the folder: no way leads out of it.
bool is_plain(const std::string& name) {
  return check_name("file", name).has_value() && name.find('/') == std::string::npos;
}

Result<> check_file(const json& file, const std::string& dir) {
  const std::string name = get_string(file, "name");
  if (!is_plain(name)) return corrupt("the manifest of the snapshot names a file that is none");
  const std::string path = dir + "/" + name;
  struct stat st {};
  if (lstat(path.c_str(), &st) < 0 || !S_ISREG(st.st_mode))
    return corrupt(fmt::format("the snapshot has no file {}", path));
  const auto size = static_cast<uint64_t>(st.st_size);
  if (size != get_u64(file, "size_bytes", UINT64_MAX))
    return corrupt(
        fmt::format("{} has {} bytes instead of {}", path, size, get_u64(file, "size_bytes")));
  if (name != k_snap_state) return {};
  TRY_ASSIGN(const std::string text, read_file(path, k_max_state));
  if (fmt::format("{:016x}", XXH3_64bits(text.data(), text.size())) != get_string(file, "xxh3"))
    return corrupt(path + " is damaged: its checksum is another");
  return {};
}

bool lists(const json& files, std::string_view name) {
  const auto is = [&](const json& file) { return get_string(file, "name") == name; };
  return std::any_of(files.begin(), files.end(), is);
}

Result<> check_content(const json& manifest, const json& files) {
  const json* content = find(manifest, "content");
  const std::string kind = content ? get_string(*content, "kind") : "";
  if (kind != k_snap_data && kind != k_snap_overlay)
    return corrupt("the manifest of the snapshot says nothing of the disk's content");
  for (const char* name : {k_snap_state, k_snap_records, kind.c_str()})
    if (!lists(files, name)) return corrupt(fmt::format("the snapshot of a disk has no {}", name));
  if (kind == k_snap_data) return {};
  const json* base = find(*content, "base");
  const json* on = base ? find(*base, "files") : nullptr;
  const json* overlays = base ? find(*base, "overlays") : nullptr;
  if (on == nullptr || overlays == nullptr || !overlays->is_array() || overlays->empty())
    return corrupt("the manifest of the snapshot does not say what its overlay stands on");
  for (const json& overlay : *overlays)
    if (!is_plain(get_string(overlay, "file")) || !lists(files, get_string(overlay, "file")))
      return corrupt("the manifest of the snapshot names an overlay that is not there");
  return check_base_files(*on);
}

// Files that a layer writes to are the new disk's own.
void make_own(blk::LayerSpec& layer, size_t number, const std::string& home) {
  const char* key = layer.name == "reserve" ? "ptpl" : layer.name == "readcache" ? "file" : "";
  const auto given = layer.params.find(key);
  if (given != layer.params.end())
    given->second = fmt::format("{}/{}-{}", home, layer.name, number);
}

Result<std::string> overlay_of(const json& content, size_t layer) {
  for (const json& overlay : content.at("base").at("overlays"))
    if (get_u64(overlay, "layer", UINT64_MAX) == layer) return get_string(overlay, "file");
  return std::string();
}

std::string cow_on(const std::string& path) {
  blk::LayerSpec layer;
  layer.name = "cow";
  layer.params = {{"file", path}, {"read_only", "yes"}};
  return blk::layer_text(layer);
}

// Below the disk's own layers come an overlay for its changes and what was saved.
Result<> set_data(Spec& spec, const std::string& dir, size_t above) {
  spec.layers.resize(above);
  if (!spec.read_only) spec.layers.emplace_back("cow");
  spec.type = "image";
  spec.path = dir + "/" + k_snap_data;
  spec.format = "raw";
  spec.uri = spec.blockdev = spec.key_file = "";
  spec.size = 0;
  spec.direct = false;
  return {};
}

Result<> set_overlay(Spec& spec, const json& content, const std::string& dir, size_t above) {
  for (size_t i = above; i < spec.layers.size(); ++i) {
    TRY_ASSIGN(const std::string file, overlay_of(content, i));
    if (!file.empty()) spec.layers[i] = cow_on(dir + "/" + file);
  }
  spec.layers.insert(spec.layers.begin() + static_cast<ptrdiff_t>(above), "cow");
  return {};
}

}  // namespace

Result<> check_saved_disk(const json& manifest, const std::string& dir) {
  const json* files = find(manifest, "files");
  if (get_u64(manifest, "v") != k_saved_disk_version)
    return fail(Code::incompatible,
                fmt::format("the snapshot of the disk is of version {}", get_u64(manifest, "v")));
  if (files == nullptr || !files->is_array() || files->size() > k_snapshot_max_files)
    return corrupt("the manifest of the snapshot lists no files");
  for (const json& file : *files) TRY(check_file(file, dir));
  return check_content(manifest, *files);
}

Result<> check_in_place(const json& manifest) {
  const json* saved = find(manifest, "spec");
  if (saved == nullptr) return corrupt("the manifest of the snapshot has no disk");
  TRY_ASSIGN(const Spec spec, spec_from_json(*saved));
  return can_be_put_back(spec, manifest);
}

Result<Spec> restored_spec(const json& manifest, const std::string& dir, const std::string& home,
                           const RestoreOptions& options) {
  const json* saved = find(manifest, "spec");
  if (saved == nullptr) return corrupt("the manifest of the snapshot has no disk");
  TRY_ASSIGN(Spec spec, spec_from_json(*saved));
  const json& content = manifest.at("content");
  std::vector<blk::LayerSpec> layers;
  for (const std::string& text : spec.layers) layers.push_back(*blk::parse_layer(text));
  const size_t above = get_u64(content, "above", UINT64_MAX);
  const bool overlay = get_string(content, "kind") == k_snap_overlay;
  if (above != layers_above(layers) || (overlay && above == layers.size()))
    return corrupt("the manifest of the snapshot contradicts itself about the disk's layers");
  if (!options.in_place) {
    for (size_t i = 0; i < layers.size(); ++i) {
      make_own(layers[i], i, home);
      spec.layers[i] = blk::layer_text(layers[i]);
    }
    TRY(overlay ? set_overlay(spec, content, dir, above) : set_data(spec, dir, above));
  }
  const std::string id = get_string(manifest, "id");
  if (auto good = complete(spec, id); !good)
    return corrupt("the manifest of the snapshot has no usable disk: " + good.error().message);
  spec.saved_state = dir;
  return spec;
}

Result<StartingServer> begin_restore(const Object& disk, const json& manifest,
                                     const std::string& dir, const RestoreOptions& options) {
  const std::string absolute = absolute_path(dir);
  TRY(check_saved_disk(manifest, absolute));
  TRY_ASSIGN(const Spec spec, restored_spec(manifest, absolute, disk.dir, options));
  if (options.in_place) TRY(put_back(spec, manifest, absolute));
  return begin_server(disk, spec);
}

Result<json> restore_disk(const Object& disk, const json& manifest, const std::string& dir,
                          const Deadline& deadline, const RestoreOptions& options) {
  TRY_ASSIGN(const StartingServer server, begin_restore(disk, manifest, dir, options));
  return server.wait(deadline);
}

Result<> load_saved_state(blk::Disk& stack, const std::string& dir) {
  TRY_ASSIGN(const std::string text, read_file(dir + "/" + k_snap_state, k_max_state));
  const std::string records = dir + "/" + k_snap_records;
  Fd fd(open(records.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return corrupt(fmt::format("cannot open {}: {}", records, strerrordesc_np(errno)));
  const auto state = parse_json(text);
  const json* sections = state ? find(*state, "layers") : nullptr;
  if (sections == nullptr || get_u64(*state, "v") != 1)
    return corrupt(dir + "/" + k_snap_state + " is damaged");
  TRY_ASSIGN(blk::StateIn in, blk::StateIn::open(*sections, std::move(fd)));
  TRY(stack.load_state(in));
  return in.end();
}

}  // namespace pv::serve
