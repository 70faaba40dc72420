// SPDX-License-Identifier: MIT
#include "verbs.hpp"

namespace pv::snapcmd {

void build_fixture(cli::Verb& verb) {
  verb.run([](cli::Context&) -> Result<int> { return fail(Code::unsupported, "not yet"); });
}

}  // namespace pv::snapcmd
