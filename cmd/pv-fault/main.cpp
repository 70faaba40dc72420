// SPDX-License-Identifier: MIT
// pv-fault: makes disks misbehave exactly as told.
#include "verbs.hpp"

int main(int argc, char** argv) {
  using namespace pv::faultcmd;
  const pv::cli::CommandSpec spec{
      "pv-fault",
      "rule",
      "Faults for disks: add and clear rules while the guest is looking, read what they did",
      {
          {"add", "Add a fault rule to a disk", build_add},
          {"list", "List the rules of a disk with their counters", build_list},
          {"clear", "Remove rules from a disk", build_clear},
          {"active", "Show which faults a disk has", build_active},
          {"journal", "Print every decision that a rule has made", build_journal},
          {"power-cut", "Cut the power of a VM or of disks at one instant", build_power_cut},
          {"kinds", "Show the kinds of faults and what each front end delivers", build_kinds},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
