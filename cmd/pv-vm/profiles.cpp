// SPDX-License-Identifier: MIT
#include "verbs.hpp"
#include "vm/profile/profile.hpp"

namespace pv::vmcmd {

void build_profiles(cli::Verb& verb) {
  auto file = std::make_shared<std::string>();
  add_config_flag(verb, *file);
  verb.run([file](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const std::string config, vm::find_config(*file));
    TRY_ASSIGN(const std::vector<vm::Profile> profiles, vm::list_profiles(config));
    for (const vm::Profile& profile : profiles)
      TRY(context.emit(
          {{"v", cli::k_document_version}, {"profile", vm::profile_document(profile)}}));
    return 0;
  });
}

}  // namespace pv::vmcmd
