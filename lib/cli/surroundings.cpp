// SPDX-License-Identifier: MIT
#include "cli/surroundings.hpp"

#include <csignal>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pv::cli {

void make_surroundings_sane() {
  // Opened the wrong way round, so that using it fails.
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  signal(SIGCHLD, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  umask(umask(0) & ~static_cast<mode_t>(S_IRWXU));
}

}  // namespace pv::cli
