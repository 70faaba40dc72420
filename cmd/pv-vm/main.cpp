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
          {"run", "Run a command in the guest", build_run},
          {"info", "Show a VM", build_info},
          {"list", "List VMs", build_list},
          {"close", "End VMs and their disks and forget them", build_close},
          {"console", "Print the console log", build_console},
          {"argv", "Print the command line of QEMU", build_argv},
          {"doctor", "Show what this machine can do and what is missing", build_doctor},
          {"lan", "Networks between VMs: create, attach, detach, link, info, list, close",
           build_lan},
          {"guest", "Build the guest of the profile 'tiny'", build_guest},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
