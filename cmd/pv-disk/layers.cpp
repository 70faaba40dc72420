// SPDX-License-Identifier: MIT
// layers: what a disk can be made of, from the table that the server builds it by.
#include "blk/registry.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

Result<int> list(cli::Context& context) {
  for (const blk::LayerRow& row : blk::layers()) {
    json keys = json::array();
    for (const blk::ParamSpec& param : row.params)
      keys.push_back({{"key", param.key}, {"value", param.metavar}, {"does", param.help}});
    TRY(context.emit({{"v", cli::k_document_version},
                      {"layer", {{"name", row.name}, {"does", row.help}, {"keys", keys}}}}));
  }
  return 0;
}

}  // namespace

void build_layers(cli::Verb& verb) {
  verb.run([](cli::Context& context) { return list(context); });
}

}  // namespace pv::diskcmd
