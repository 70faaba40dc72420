// SPDX-License-Identifier: MIT
// pv-disk: disks that a test can watch, read, write and break.
#include "verbs.hpp"

int main(int argc, char** argv) {
  using namespace pv::diskcmd;
  const pv::cli::CommandSpec spec{
      "pv-disk",
      "disk",
      "Disks for tests: serve an image, plug it into a VM, read and write it from outside",
      {
          {"create", "Make an image file", build_create},
          {"attach", "Serve a disk and plug it into a VM", build_attach},
          {"detach", "Take a disk out of its VM", build_detach},
          {"serve", "Serve a disk over NBD without a VM", build_serve},
          {"close", "End disk servers and forget the disks", build_close},
          {"info", "Show a disk", build_info},
          {"list", "List disks", build_list},
          {"layers", "Show the layers that a disk can have", build_layers},
          {"size", "Show the capacity of a disk and the size of its image", build_size},
          {"stats", "Show what a disk has served so far", build_stats},
          {"read", "Read from a disk through its server", build_read},
          {"write", "Write to a disk through its server", build_write},
          {"flush", "Put what was written on stable storage", build_flush},
          {"discard", "Give a range back to the image", build_discard},
          {"zero", "Write zeroes to a range", build_zero},
          {"map", "Show what is allocated, zero, or a hole", build_map},
          {"io", "Run operations given as JSON Lines on stdin", build_io},
          {"resize", "Change the capacity of a disk while it is served", build_resize},
          {"eject", "Take the disc out of a CD drive", build_eject},
          {"wait-resize", "Wait until the capacity is another", build_wait_resize},
          {"reserve", "Make, give up and show persistent reservations", build_reserve},
          {"tune", "Change a layer of a disk while it is served", build_tune},
      }};
  return pv::cli::command_main(spec, argc, argv);
}
