// SPDX-License-Identifier: MIT
// Disks out of snapshots: what a server has saved (serve/snap.hpp) becomes a disk again. The saved
// files are only read, and shared by any number of disks; the changes of each go to an overlay that
// ends with it. Or the content goes back to where it came from. Everything in a manifest is
// foreign: Code::snapshot_corrupt for what no server has written, Code::incompatible when something
// that it stands on has changed. For the process that restores, not for the server.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "serve/server.hpp"
#include "serve/spec.hpp"

namespace pv::blk {
class Disk;
}

namespace pv::serve {

constexpr uint64_t k_saved_disk_version = 1;

struct RestoreOptions {
  // Puts the content back into the original image or overlay, and serves that.
  bool in_place = false;
};

// Whether the files of a saved disk are all there, as long as they were, and what they stand on is
// unchanged. The contents of `data` are not read.
Result<> check_saved_disk(const json& manifest, const std::string& dir);
// Code::unsupported for one that cannot be restored in place; it has been checked before.
Result<> check_in_place(const json& manifest);

// Starts the server of a new, empty disk object. Several disks are begun one after another and then
// waited for (StartingServer::wait).
Result<StartingServer> begin_restore(const Object& disk, const json& manifest,
                                     const std::string& dir, const RestoreOptions& options = {});

// Begins and waits: the `disk` document of the new server.
Result<json> restore_disk(const Object& disk, const json& manifest, const std::string& dir,
                          const Deadline& deadline, const RestoreOptions& options = {});

// What of a spec makes an equal disk, and back.
json spec_json(const Spec& spec);
Result<Spec> spec_from_json(const json& saved);

// The spec of the disk that a restored one is, in `home`, its object's directory.
Result<Spec> restored_spec(const json& manifest, const std::string& dir, const std::string& home,
                           const RestoreOptions& options);

// Gives the layers of a new stack back what they remembered.
Result<> load_saved_state(blk::Disk& stack, const std::string& dir);

}  // namespace pv::serve
