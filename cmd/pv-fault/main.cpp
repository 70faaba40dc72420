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
          {"held", "List the requests that are held", build_held},
          {"release", "Let held requests go on, in any order", build_release},
          {"mark", "Set a mark that rules wait for", build_mark},
          {"state", "Show or change the state that rules depend on", build_state},
          {"wait", "Wait until a rule has fired", build_wait},
          {"assert", "Check that every rule has fired", build_assert},
          {"preset", "Add the rules of a well-known misbehaviour", build_preset},
          {"power-cut", "Cut the power of a VM or of disks at one instant", build_power_cut},
          {"kinds", "Show the kinds of faults and what each front end delivers", build_kinds},
          {"sweep", "Run a command once for each of its requests, that one failing", build_sweep},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
