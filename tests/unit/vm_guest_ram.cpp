// SPDX-License-Identifier: MIT
// If this fails, a snapshot of a VM whose QEMU has just been killed is called a bug of ours.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../catch.hpp"
#include "vm/supervisor/guest_ram.hpp"

using namespace pv;

TEST_CASE("the memory of a QEMU that has ended is gone, and that is said", "[vm]") {
  const pid_t zombie = fork();
  if (zombie == 0) _exit(0);
  siginfo_t info{};
  REQUIRE(waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT) == 0);
  const Fd to(memfd_create("to", MFD_CLOEXEC));
  for (const bool buried : {false, true}) {
    if (buried) waitpid(zombie, nullptr, 0);
    for (const bool mapped : {true, false}) {
      INFO((buried ? "buried" : "a zombie") << ", memory " << (mapped ? "mapped" : "shared"));
      vm::GuestRam ram;
      ram.attach(zombie, Fd(memfd_create("memory", MFD_CLOEXEC)), mapped);
      const auto saved = ram.save(to.get());
      REQUIRE_FALSE(saved);
      CHECK(saved.error().code == Code::guest_died);
    }
  }
}
