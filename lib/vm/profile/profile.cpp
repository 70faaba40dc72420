// SPDX-License-Identifier: MIT
#include "vm/profile/profile.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/profile/profile_toml.hpp"

namespace pv::vm {
namespace {

// Measured under TCG, these take a third off the boot: no self tests of the crypto code, no
// mitigations, no security modules, no page cleared that is then written, no lock prefix replaced
// for a single CPU, and none of the start-up steps that a disk test never needs.
// Names in initcall_blacklist that a kernel does not have are ignored by it. panic=-1: a guest
// that dies while booting resets, which the supervisor sees at once.
constexpr const char* k_tiny_cmdline =
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests tsc=reliable no_timer_check "
    "random.trust_cpu=on lsm= audit=0 8250.nr_uarts=1 i8042.noaux i8042.nokbd "
    "rcupdate.rcu_expedited=1 init_on_alloc=0 psi=0 noreplace-smp "
    "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,load_system_certificate_list,"
    "slab_sysfs_init,cubictcp_register,init_blk_tracer";
// For a kernel of which nothing is known but its name.
constexpr const char* k_plain_cmdline = "console=ttyS0 panic=-1";
constexpr const char* k_config_name = "provium.toml";

const char* problem_with(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) < 0) return strerrordesc_np(errno);
  if (!S_ISREG(st.st_mode)) return "not a file";
  if (st.st_size == 0) return "empty";
  return access(path.c_str(), R_OK) < 0 ? strerrordesc_np(errno) : nullptr;
}

Result<> check_file(const Profile& profile, const char* field, const std::string& path) {
  const char* problem = problem_with(path);
  if (!problem) return {};
  const Error error(Code::unavailable,
                    fmt::format("profile '{}': {} {}: {}", profile.name, field, path, problem));
  return fail(error.with("field", field).with("path", path));
}

// An empty one is one without profiles.
Result<> check_config(const char* whose, const std::string& path) {
  const char* problem = problem_with(path);
  if (!problem || std::string_view(problem) == "empty") return {};
  struct stat st {};
  const bool leads_nowhere = stat(path.c_str(), &st) < 0 && lstat(path.c_str(), &st) == 0;
  return fail(Code::invalid, fmt::format("{}{}: {}{}", whose, printable(path),
                                         leads_nowhere ? "not a file: " : "", problem));
}

Profile tiny() {
  Profile profile;
  profile.name = k_tiny;
  profile.cmdline = k_tiny_cmdline;
  profile.guest_os = "linux";
  return profile;
}

// Kernel and initrd of a guest image; the hint is a command that makes just that image.
Result<> take_image(Profile& profile) {
  auto image = profile.name == k_tiny ? guest::find_tiny() : guest::find(profile.name);
  if (!image && image.error().code == Code::unavailable && profile.build) {
    const std::string hint = "pv-vm guest build --profile " + profile.name;
    const Error error(Code::unavailable,
                      fmt::format("profile '{}': its guest image has not been built; run '{}'",
                                  profile.name, hint));
    return fail(error.with("hint", hint));
  }
  if (!image) return fail(image.error());
  profile.kernel = image->kernel;
  profile.initrd = image->initrd;
  profile.kernel_version = image->kernel_version;
  if (profile.cmdline.empty()) profile.cmdline = k_tiny_cmdline;
  return {};
}

}  // namespace

Result<std::string> find_config(const std::string& chosen) {
  const char* named = getenv("PROVIUM_CONFIG");
  const bool by_flag = !chosen.empty();
  if (by_flag || (named && *named)) {
    const std::string path = absolute_path(by_flag ? chosen : named);
    TRY(check_config(by_flag ? "--config " : "PROVIUM_CONFIG ", path));
    return path;
  }
  // A directory that was deleted under us has no path, and nothing above it.
  std::string dir = absolute_path(k_config_name);
  while (!dir.empty() && dir.front() == '/') {
    dir.resize(dir.rfind('/'));
    // Whatever has the name counts: a link to nowhere is a mistake, not an absence.
    const std::string path = dir + "/" + k_config_name;
    struct stat st {};
    if (lstat(path.c_str(), &st) == 0) return path;
  }
  return std::string();
}

Result<std::vector<Profile>> list_profiles(const std::string& file) {
  std::vector<Profile> profiles;
  if (!file.empty()) {
    TRY(check_config("", file));
    TRY_ASSIGN(profiles, read_profiles(file));
  }
  profiles.push_back(tiny());
  std::sort(profiles.begin(), profiles.end(),
            [](const Profile& a, const Profile& b) { return a.name < b.name; });
  return profiles;
}

Result<Profile> find_profile(const std::string& name, const std::string& file) {
  TRY_ASSIGN(const std::vector<Profile> profiles, list_profiles(file));
  std::vector<std::string> names;
  for (const Profile& profile : profiles) {
    if (profile.name == name) return profile;
    names.push_back(profile.name);
  }
  const Error error(
      Code::invalid,
      fmt::format("unknown profile '{}'; profiles: {}{}", printable(name), join(names, " "),
                  file.empty() ? " (no provium.toml was found)" : " (" + file + ")"));
  return fail(error.with("valid", names));
}

Result<Profile> load_profile(const std::string& name, const std::string& file) {
  TRY_ASSIGN(Profile profile, find_profile(name, file));
  if (name == k_tiny || profile.build) TRY(take_image(profile));
  if (!profile.kernel.empty()) {
    TRY(check_file(profile, "kernel", profile.kernel));
    if (profile.cmdline.empty()) profile.cmdline = k_plain_cmdline;
  }
  if (!profile.initrd.empty()) TRY(check_file(profile, "initrd", profile.initrd));
  for (const ProfileDisk& disk : profile.disks) TRY(check_file(profile, "disks", disk.image));
  return profile;
}

json profile_document(const Profile& profile) {
  const auto or_null = [](const std::string& text) { return text.empty() ? json() : json(text); };
  // A profile that cannot boot now says why, and shows what it would take.
  auto loaded = load_profile(profile.name, profile.file);
  const Profile& shown = loaded ? *loaded : profile;
  auto files_there = loaded ? check_files(profile.files) : Result<>(fail(loaded.error()));
  json disks = json::array();
  for (const ProfileDisk& disk : profile.disks) {
    json object = {{"id", disk.id}, {"image", disk.image}};
    if (!disk.format.empty()) object["format"] = disk.format;
    object["read_only"] = disk.read_only;
    object["boot"] = disk.boot;
    disks.push_back(std::move(object));
  }
  json document = {{"name", profile.name},
                   {"usable", files_there.has_value()},
                   {"source", profile.file.empty() ? json("built in") : json(profile.file)},
                   {"kernel", or_null(shown.kernel)},
                   {"initrd", or_null(shown.initrd)},
                   {"cmdline", or_null(shown.cmdline)},
                   {"guest_os", or_null(profile.guest_os)},
                   {"memory_bytes", profile.memory_bytes},
                   {"cpus", profile.cpus},
                   {"machine", profile.machine},
                   {"agent", profile.agent},
                   {"qemu_args", profile.qemu_args},
                   {"disks", disks},
                   {"files", files_to_json(profile.files)}};
  if (!files_there) document["problem"] = files_there.error().message;
  if (profile.build)
    document["build"] = {{"kernel", or_null(profile.build->kernel)},
                         {"modules", profile.build->modules},
                         {"files", profile.build->files}};
  return document;
}

}  // namespace pv::vm
