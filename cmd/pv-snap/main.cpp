// SPDX-License-Identifier: MIT
// pv-snap: snapshots of VMs with all their disks.
#include "verbs.hpp"

int main(int argc, char** argv) {
  using namespace pv::snapcmd;
  const pv::cli::CommandSpec spec{
      "pv-snap",
      "snap",
      "Snapshots of VMs: memory, devices and all disks of one instant, and VMs that go on from "
      "them",
      {
          {"take", "Take a snapshot of a VM", build_take},
          {"restore", "Let a VM go on from a snapshot", build_restore},
          {"clone", "Let several new VMs go on from a snapshot", build_clone},
          {"info", "Show a snapshot", build_info},
          {"list", "List snapshots", build_list},
          {"delete", "Delete a snapshot", build_delete},
          {"check", "Read all of a snapshot and tell whether it can be restored", build_check},
          {"fixture", "A snapshot from the cache, built when it is not there", build_fixture},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
