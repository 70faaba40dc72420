// SPDX-License-Identifier: MIT
// Profiles: what a VM boots. Built in is `tiny`, whose files `pv-vm guest build` makes;
// $PV_GUEST_DIR names a folder with `kernel` and `initrd` to use instead. All others are
// `[profiles.NAME]` of a provium.toml (provium.toml(5)).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "guest/guest.hpp"
#include "vm/profile/guest_file.hpp"

namespace pv::vm {

constexpr const char* k_tiny = "tiny";

constexpr size_t k_max_profile_disks = 26;  // vda to vdz

// A disk that the VM gets at its first boot, as copy-on-write over an image.
struct ProfileDisk {
  std::string id;
  std::string image;   // absolute
  std::string format;  // "" to look at it
  bool read_only = false;
  bool boot = false;
};

struct Profile {
  std::string name;
  std::string file;    // the provium.toml, absolute; "" for what is built in
  std::string kernel;  // absolute paths
  std::string initrd;  // "" for a kernel that needs none
  std::string cmdline;
  std::string guest_os;
  std::string kernel_version;  // "" when not known
  std::string machine = "q35";
  uint64_t memory_bytes = uint64_t{256} << 20;
  uint64_t cpus = 1;
  bool agent = true;  // boot waits for it
  std::vector<std::string> qemu_args;
  std::vector<ProfileDisk> disks;
  std::vector<GuestFile> files;
  std::optional<guest::BuildOptions> build;  // kernel and initrd are this guest image's

  bool boots_from_disk() const { return kernel.empty() && !build && name != k_tiny; }
};

// The provium.toml that counts: `chosen` (--config) unless it is "", else $PROVIUM_CONFIG, else the
// first one from the current directory upward. Absolute; "" when there is none.
Result<std::string> find_config(const std::string& chosen);

// What is built in and what the file has, sorted by name. `file` may be "".
Result<std::vector<Profile>> list_profiles(const std::string& file);

// Code::invalid for a name that does not exist, listing those that do. The files that the profile
// speaks of need not be there.
Result<Profile> find_profile(const std::string& name, const std::string& file);

// The same with its files looked for. Code::unavailable when an image was never built, or when a
// file is missing: the message names field and path.
Result<Profile> load_profile(const std::string& name, const std::string& file = "");

// The `profile` object of a document.
json profile_document(const Profile& profile);

}  // namespace pv::vm
