// SPDX-License-Identifier: MIT
// provium.toml: whatever a person writes is profiles or one error with a place; a profile that is
// taken has something to boot, clean names and absolute paths.
#include <cstdint>
#include <cstdlib>

#include "base/units.hpp"
#include "vm/profile/profile_toml.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = "/dir/provium.toml";
  const auto profiles = pv::vm::parse_profiles({reinterpret_cast<const char*>(data), size}, path);
  if (!profiles) {
    const pv::Error& error = profiles.error();
    if (error.code != pv::Code::invalid || error.message.rfind(path + ":", 0) != 0) abort();
    return 0;
  }
  for (const pv::vm::Profile& profile : *profiles) {
    if (!pv::check_name("profile", profile.name) || profile.name == pv::vm::k_tiny) abort();
    if (profile.boots_from_disk() && profile.disks.empty()) abort();
    for (const std::string* file : {&profile.kernel, &profile.initrd})
      if (!file->empty() && file->front() != '/') abort();
    for (const pv::vm::ProfileDisk& disk : profile.disks)
      if (disk.image.empty() || disk.image.front() != '/') abort();
    for (const pv::vm::GuestFile& file : profile.files)
      if (!pv::vm::guest_dest("dest", file.dest)) abort();
  }
  return 0;
}
