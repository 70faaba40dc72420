// SPDX-License-Identifier: MIT
// Presets: rules that together make a well-known misbehaviour. They are data, one file each:
// {"about": "…", "rules": […]}.
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

namespace fs = std::filesystem;

constexpr size_t k_preset_max_file = 1 << 20;

struct PresetOptions {
  std::string name, disk;
};

// The user's own, then those beside this program, where it is installed or was built.
std::vector<fs::path> folders() {
  std::vector<fs::path> found;
  if (const char* own = getenv("PV_PRESETS"); own != nullptr && *own != '\0')
    found.emplace_back(own);
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  found.push_back(program / "../share/provium/presets");
  return found;
}

// Name and file of each preset; of two with one name the first counts.
std::map<std::string, fs::path> presets() {
  std::map<std::string, fs::path> found;
  for (const fs::path& folder : folders()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error))
      if (entry.path().extension() == ".json") found.emplace(entry.path().stem(), entry.path());
  }
  return found;
}

Result<json> read_preset(const fs::path& path) {
  TRY_ASSIGN(const std::string text, read_file(path, k_preset_max_file));
  auto preset = parse_json(text);
  if (!preset)
    return fail(Code::bad_document,
                fmt::format("preset {}: {}", path.string(), preset.error().message));
  const json* rules = find(*preset, "rules");
  if (rules == nullptr || !rules->is_array() || rules->empty())
    return fail(Code::bad_document, fmt::format("preset {} has no rules", path.string()));
  return preset;
}

Result<int> show_all(cli::Context& context) {
  for (const auto& [name, path] : presets()) {
    TRY_ASSIGN(const json preset, read_preset(path));
    TRY(context.emit(
        {{"v", cli::k_document_version},
         {"preset",
          {{"name", name}, {"about", get_string(preset, "about")}, {"rules", preset["rules"]}}}}));
  }
  return 0;
}

Result<int> act(cli::Context& context, const PresetOptions& options) {
  if (options.name.empty()) return show_all(context);
  const auto known = presets();
  const auto found = known.find(options.name);
  if (found == known.end()) {
    std::vector<std::string> names;
    for (const auto& [name, path] : known) names.push_back(name);
    return fail(Error(Code::bad_mode, fmt::format("no preset '{}' (presets: {})", options.name,
                                                  names.empty() ? "none" : join(names, " ")))
                    .with("valid", names));
  }
  TRY_ASSIGN(json preset, read_preset(found->second));
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  for (json& rule : preset["rules"]) rule["clip"] = true;  // it knows no size
  TRY(add_rules(context, session, std::move(preset["rules"])));
  return 0;
}

}  // namespace

void build_preset(cli::Verb& verb) {
  auto options = std::make_shared<PresetOptions>();
  verb.positional("name", options->name, "The preset (default: list them)");
  add_disk_flag(verb, options->disk);
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
