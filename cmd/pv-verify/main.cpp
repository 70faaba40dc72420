// SPDX-License-Identifier: MIT
// pv-verify: is what a disk gives what was written to it, and if not, who wrote it.
#include "verbs.hpp"

int main(int argc, char** argv) {
  using namespace pv::verifycmd;
  const pv::cli::CommandSpec spec{
      "pv-verify",
      "verify",
      "Compares disks, under a live guest or at rest, and names every difference and its writer",
      {
          // One line for each verb, in the order of the manual.
          {"mirror", "A disk that is compared while it is in use", build_mirror},
          {"findings", "What such a disk has found", build_findings},
          {"held", "Requests that it holds", build_held},
          {"release", "Let held requests go", build_release},
          {"compare", "List every range in which two disks differ", build_compare},
          {"fill", "Write blocks that say of themselves where they belong", build_fill},
          {"check", "Find blocks that are not what fill has written, and say why", build_check},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
