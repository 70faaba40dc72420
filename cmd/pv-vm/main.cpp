// SPDX-License-Identifier: MIT
// pv-vm: virtual machines for tests.
#include "verbs.hpp"

int main(int argc, char** argv) {
  using namespace pv::vmcmd;
  const pv::cli::CommandSpec spec{
      "pv-vm",
      "vm",
      "Virtual machines for tests: create, boot, run commands inside, close",
      {
          {"create", "Make a VM; nothing is started yet", build_create},
          {"boot", "Start a VM and wait until its guest agent answers", build_boot},
          {"pause", "Stop the guest's CPUs", build_pause},
          {"resume", "Let them go on", build_resume},
          {"reset", "Reset the guest and wait until it has booted again", build_reset},
          {"power-button", "Press the power button and wait for the guest to shut down",
           build_power_button},
          {"shutdown", "End the guest at once; the VM can be booted again", build_shutdown},
          {"wait", "Wait for a state, an event or a line on the console", build_wait},
          {"run", "Run a command in the guest", build_run},
          {"put", "Copy a file into the guest", build_put},
          {"get", "Copy a file out of the guest", build_get},
          {"info", "Show a VM", build_info},
          {"list", "List VMs", build_list},
          {"close", "End VMs and their disks and forget them", build_close},
          {"tail", "Print the end of a file of the guest, and what is appended", build_tail},
          {"console", "Print the console log, or join the console", build_console},
          {"clock", "Read or set the guest's clock", build_clock},
          {"events", "Print what has happened to a VM", build_events},
          {"argv", "Print the command line of QEMU", build_argv},
          {"doctor", "Show what this machine can do and what is missing", build_doctor},
          {"profiles", "List what can be booted", build_profiles},
          {"guest", "Build the guest of the profile 'tiny', or of another", build_guest},
          {"scope", "Run a command in a fresh scope, close or list scopes", build_scope},
          {"lan", "Networks between VMs: create, attach, detach, link, info, list, close",
           build_lan},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
