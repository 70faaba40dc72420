// SPDX-License-Identifier: MIT
#include "vm/profile.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "guest/guest.hpp"

namespace pv::vm {
namespace {

// Measured under TCG, these take a third off the boot: no self tests of the crypto code, no
// mitigations, no security modules, and none of the start-up steps that a disk test never needs.
// Names in initcall_blacklist that a kernel does not have are ignored by it. panic=-1: a guest
// that dies while booting resets, which the supervisor sees at once.
constexpr const char* k_tiny_cmdline =
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests tsc=reliable no_timer_check "
    "random.trust_cpu=on lsm= audit=0 8250.nr_uarts=1 i8042.noaux i8042.nokbd "
    "rcupdate.rcu_expedited=1 "
    "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,load_system_certificate_list,"
    "slab_sysfs_init,cubictcp_register,init_blk_tracer";

Result<> check_file(const std::string& profile, const char* field, const std::string& path) {
  struct stat st {};
  const char* problem = nullptr;
  if (stat(path.c_str(), &st) < 0)
    problem = strerror(errno);
  else if (!S_ISREG(st.st_mode))
    problem = "not a file";
  else if (st.st_size == 0)
    problem = "empty";
  else if (access(path.c_str(), R_OK) < 0)
    problem = strerror(errno);
  if (!problem) return {};
  const Error error(Code::unavailable,
                    fmt::format("profile '{}': {} {}: {}", profile, field, path, problem));
  return fail(error.with("field", field).with("path", path));
}

Result<Profile> load_tiny() {
  Profile profile;
  profile.name = "tiny";
  profile.cmdline = k_tiny_cmdline;
  TRY_ASSIGN(const guest::Image image, guest::find_tiny());
  profile.kernel = image.kernel;
  profile.initrd = image.initrd;
  profile.kernel_version = image.kernel_version;
  return profile;
}

struct Row {
  const char* name;
  Result<Profile> (*load)();
};
constexpr Row k_profiles[] = {{"tiny", load_tiny}};

}  // namespace

std::vector<std::string> profile_names() {
  std::vector<std::string> names;
  for (const Row& row : k_profiles) names.emplace_back(row.name);
  return names;
}

Result<> check_profile_name(const std::string& name) {
  for (const Row& row : k_profiles)
    if (name == row.name) return {};
  const Error error(Code::invalid, fmt::format("unknown profile '{}'; profiles: {}",
                                               printable(name), join(profile_names(), " ")));
  return fail(error.with("valid", profile_names()));
}

Result<Profile> load_profile(const std::string& name) {
  TRY(check_profile_name(name));
  for (const Row& row : k_profiles) {
    if (name != row.name) continue;
    TRY_ASSIGN(Profile profile, row.load());
    TRY(check_file(name, "kernel", profile.kernel));
    TRY(check_file(name, "initrd", profile.initrd));
    return profile;
  }
  return fail(Code::bug, "profile table");
}

}  // namespace pv::vm
