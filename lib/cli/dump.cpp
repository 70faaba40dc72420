// SPDX-License-Identifier: MIT
#include "cli/dump.hpp"

#include <CLI/CLI.hpp>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/version.hpp"

namespace pv::cli {
namespace {

json dump_option(const CLI::Option& option) {
  json names = json::array();
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  json row;
  if (option.get_positional())
    row["positional"] = option.get_name(true);
  else
    row["names"] = names;
  row["takes_value"] = option.get_items_expected_max() > 0;
  if (!option.get_type_name().empty()) row["metavar"] = option.get_type_name();
  row["required"] = option.get_required();
  row["help"] = option.get_description();
  return row;
}

json dump_app(const CLI::App& app) {
  json row = {{"name", app.get_name()}, {"help", app.get_description()}};
  json options = json::array();
  for (const CLI::Option* option : app.get_options()) options.push_back(dump_option(*option));
  row["options"] = options;
  return row;
}

}  // namespace

json dump_cli(const CommandSpec& spec, const CLI::App& app) {
  json tree = dump_app(app);
  tree["name"] = spec.name;
  tree["noun"] = spec.noun;
  tree["version"] = k_version;
  json verbs = json::array();
  for (const CLI::App* verb : app.get_subcommands({})) verbs.push_back(dump_app(*verb));
  tree["verbs"] = verbs;
  return tree;
}

}  // namespace pv::cli
