// SPDX-License-Identifier: MIT
// What a process inherits and does not choose: made known and sane at one place, before anything
// else, so that no command has to think of a parent that ignores SIGCHLD or masks the owner's bits.
// Servers and supervisors are forks of commands, and have it from them.
#pragma once

namespace pv::cli {

// Called first thing in main(), with one thread.
//
// - A descriptor of ours never becomes 0, 1 or 2: one that the caller has closed fails when it is
//   used, and no data ends up in a wrong place.
// - Children can be waited for: with SIGCHLD ignored the kernel takes them away by itself
//   (waitpid(2), "ECHILD"). What else a parent ignores stays so: nohup(1) means it.
// - No signal is blocked.
// - What we make ourselves, such as the run directory, its owner may use, whatever the umask says
//   of others.
void make_surroundings_sane();

}  // namespace pv::cli
