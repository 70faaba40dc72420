// SPDX-License-Identifier: MIT
#include "guest/strip.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/process.hpp"
#include "guest/elf.hpp"

namespace pv::guest {

Result<std::string> strip_module(std::string_view module, const Deadline& deadline) {
  TRY_ASSIGN(const std::string_view debug, elf_section(module, ".debug_info"));
  if (debug.empty()) return std::string(module);
  std::string path = "/tmp/pv-module-XXXXXX";
  Fd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) return fail_errno("cannot create a temporary file in /tmp", errno);
  struct Remove {
    const std::string& path;
    ~Remove() { unlink(path.c_str()); }
  } remove{path};
  TRY(write_all(fd.get(), module));
  // strip replaces the file's content in place, so it is read by name again.
  const auto done = run_program({"strip", "--strip-debug", path}, deadline);
  if (!done && done.error().code == Code::unavailable) return std::string(module);
  if (!done) return fail(done.error());
  if (done->status.code != 0 || done->status.signal != 0) return std::string(module);
  return read_file(path, module.size() + 1);
}

}  // namespace pv::guest
