// SPDX-License-Identifier: MIT
#include "target/disk_target.hpp"

#include <algorithm>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/registry.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"

namespace pv::target {
namespace {

// "v/vda" as a document names it; empty when it names no disk.
std::string name_in(const json& document, std::string& scope) {
  if (const json* disk = find(document, "disk"); disk && disk->is_object()) {
    const std::string id = get_string(*disk, "id"), vm = get_string(*disk, "vm");
    scope = get_string(*disk, "scope");
    if (!id.empty()) return vm.empty() ? id : vm + "/" + id;
  }
  const json* vm = find(document, "vm");
  const json* disks = vm ? find(*vm, "disks") : nullptr;
  if (!disks || !disks->is_array() || disks->size() != 1 || !(*disks)[0].is_string()) return {};
  scope = get_string(*vm, "scope");
  return get_string(*vm, "name") + "/" + (*disks)[0].get<std::string>();
}

}  // namespace

Result<DiskTarget> disk_target(cli::Context& context, const std::string& name) {
  if (!name.empty()) {
    TRY_ASSIGN(RunDir run, context.run_dir());
    TRY_ASSIGN(Object disk, serve::find_disk(run, name));
    return DiskTarget{std::move(run), std::move(disk)};
  }
  TRY_ASSIGN(const json* document, context.input());
  std::string scope;
  const std::string said = name_in(*document, scope);
  if (said.empty())
    return fail(Code::bad_document,
                "the input document names no disk (key \"disk\", \"id\", or a VM with one disk)");
  TRY_ASSIGN(RunDir run, context.run_dir(scope));
  TRY_ASSIGN(Object disk, serve::find_disk(run, said));
  return DiskTarget{std::move(run), std::move(disk)};
}

Result<json> live_disk_document(const Object& disk, const Deadline& deadline) {
  TRY_ASSIGN(const json stored, serve::disk_document(disk));
  const std::string state = get_string(stored, "state");
  if (state != "attached" && state != "serving") return disk_document_from(disk, json::object());
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(disk, deadline));
  TRY_ASSIGN(const json reply, client.call({{"op", "info"}}));
  return disk_document_from(disk, reply);
}

// Whether a layer keeps the changes, and with them the size, elsewhere than in the image.
static bool has_own_size(const json& document) {
  const json* layers = find(document, "layers");
  std::vector<blk::LayerSpec> specs;
  for (const json& text : layers ? *layers : json::array())
    if (auto spec = blk::parse_layer(text.get<std::string>())) specs.push_back(std::move(*spec));
  const auto striped = [](const blk::LayerSpec& spec) { return spec.name == "stripe"; };
  return blk::base_needs(specs, blk::k_base_read_only) ||
         std::any_of(specs.begin(), specs.end(), striped);
}

Result<json> disk_document_from(const Object& disk, const json& reply) {
  TRY_ASSIGN(json document, serve::disk_document(disk));
  if (const json* now = find(reply, "disk")) {
    for (const auto& [key, value] : now->items())
      if (key != "start_ticks" && key != "image_path") document[key] = value;
  }
  // What the image file measures now; somebody may have cut or grown it.
  TRY_ASSIGN(const json stored, disk.load());
  const std::string image = get_string(stored, "image_path");
  struct stat st {};
  if (image.empty() || stat(image.c_str(), &st) < 0 || !S_ISREG(st.st_mode)) return document;
  document["image_bytes"] = static_cast<uint64_t>(st.st_size);
  const json* source = find(document, "source");
  if (source && get_string(*source, "format") == "raw" && !has_own_size(document))
    document["image_differs"] =
        static_cast<uint64_t>(st.st_size) != get_u64(document, "size_bytes");
  return document;
}

}  // namespace pv::target
