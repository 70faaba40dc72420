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
          {"record", "Have what changes a disk written down in a log", build_record},
          {"mark", "Put a mark into the log of a disk", build_mark},
          {"log", "List what is in a log", build_log},
          {"replay", "Carry out a log on an image, up to any point", build_replay},
          {"export", "Make a log of dm-log-writes from a log", build_export},
          {"import", "Make a log from one of dm-log-writes", build_import},
          {"report", "Give the verdict on a disk that is compared", build_report},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
