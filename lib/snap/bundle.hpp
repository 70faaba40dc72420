// SPDX-License-Identifier: MIT
// A snapshot on disk: a directory that is complete from the moment it has its name.
//
//   manifest.json  what it is of, and name, size and hash of every other file; its own hash last
//   ram            the guest's memory: a sparse file, mapped by those that are restored from it
//   state          of QEMU's devices
//   initrd         where the VM had one of its own
//   disks/ID/…     what each disk's server has saved (serve/snapshot.hpp)
//   verified       which files, by inode and times, were found whole: not part of the snapshot, may
//                  be missing or wrong, and saves reading all of it at each restore
//
// Used by commands, on their thread. Everything read is foreign bytes: Code::snapshot_corrupt.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::snap {

constexpr uint64_t k_format = 2;
constexpr const char* k_manifest_file = "manifest.json";
constexpr const char* k_ram_file = "ram";
constexpr const char* k_state_file = "state";
constexpr const char* k_initrd_file = "initrd";

struct Bundle {
  std::string dir;  // absolute
  json manifest;

  std::string path(std::string_view file) const { return dir + "/" + std::string(file); }
  std::string disk_dir(std::string_view id) const { return dir + "/disks/" + std::string(id); }
};

// Reads the manifest and looks whether every file is there with its length. Code::no_such_snapshot
// where there is no directory.
Result<Bundle> open_bundle(const std::string& dir);

// Reads all of it, unless `verified` says that nothing was touched since it was found whole.
// `thorough` reads it in any case.
Result<> verify(const Bundle& bundle, bool thorough);

// Adds "files" and "hash" to the manifest, writes it, and puts everything on stable storage.
Result<> seal(Bundle& bundle);

// Bytes that it takes on the file system.
uint64_t disk_usage(const std::string& dir);

// The `snap` object of a document.
json snap_document(const Bundle& bundle);

}  // namespace pv::snap
