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
          {"put", "Copy a file into the guest", build_put},
          {"get", "Copy a file out of the guest", build_get},
          {"info", "Show a VM", build_info},
          {"list", "List VMs", build_list},
          {"close", "End VMs and their disks and forget them", build_close},
          {"tail", "Print the end of a file of the guest, and what is appended", build_tail},
          {"console", "Print the console log, or join the console", build_console},
          {"clock", "Read or set the guest's clock", build_clock},
          {"argv", "Print the command line of QEMU", build_argv},
          {"doctor", "Show what this machine can do and what is missing", build_doctor},
          {"guest", "Build the guest of the profile 'tiny'", build_guest},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
