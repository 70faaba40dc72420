// SPDX-License-Identifier: MIT
#include <fcntl.h>

#include "base/file.hpp"
#include "base/units.hpp"
#include "verbs.hpp"
#include "vm/argv.hpp"

namespace pv::vmcmd {
namespace {

// Prints a file from `offset` on, in pieces: a console log can be large.
Result<> print_from(cli::Context& context, int fd, uint64_t offset) {
  std::string chunk(1 << 16, '\0');
  while (true) {
    const ssize_t n = pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read the console log", errno);
    if (n == 0) return {};
    TRY(context.emit_raw({chunk.data(), static_cast<size_t>(n)}));
    offset += static_cast<uint64_t>(n);
  }
}

}  // namespace

void build_console(cli::Verb& verb) {
  struct Options {
    std::string name;
    std::string tail;
  };
  auto options = std::make_shared<Options>();
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.option("--tail", options->tail, "SIZE", "Only this much of its end");
  verb.run([options](cli::Context& context) -> Result<int> {
    context.raw_output();
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options->name));
    uint64_t tail = UINT64_MAX;
    if (!options->tail.empty()) {
      TRY_ASSIGN(tail, parse_size(options->tail));
    }
    const Fd log(open(at.vm.path(vm::k_console_log).c_str(), O_RDONLY | O_CLOEXEC));
    if (!log) {
      if (errno == ENOENT) return 0;  // not booted yet: nothing was printed
      return fail_errno("cannot open the console log", errno);
    }
    const auto size = static_cast<uint64_t>(lseek(log.get(), 0, SEEK_END));
    TRY(print_from(context, log.get(), size > tail ? size - tail : 0));
    return 0;
  });
}

}  // namespace pv::vmcmd
