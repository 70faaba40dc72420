// SPDX-License-Identifier: MIT
// --dump-cli: the option tree as JSON. Completions read it, the drift test compares manuals to it.
#pragma once

#include "base/json_fwd.hpp"

namespace CLI {
class App;
}

namespace pv::cli {

struct CommandSpec;

json dump_cli(const CommandSpec& spec, const CLI::App& app);

}  // namespace pv::cli
