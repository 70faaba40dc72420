// SPDX-License-Identifier: MIT
// What a command reads from stdin: refused with a code of its class, or an object of version 1.
#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "cli/document.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pv::Fd fd(memfd_create("document", MFD_CLOEXEC));
  if (!pv::write_all(fd.get(), {reinterpret_cast<const char*>(data), size})) return 0;
  lseek(fd.get(), 0, SEEK_SET);
  const auto document = pv::cli::read_document(fd.get(), "stdin");
  if (!document) {
    if (document.error().code != pv::Code::bad_document) abort();
    return 0;
  }
  if (!document->is_object() || (*document)["v"] != pv::cli::k_document_version) abort();
  static_cast<void>(pv::cli::select_field(*document, "disk.id", "disk"));
  static_cast<void>(pv::cli::render_text({*document}, true));
  static_cast<void>(pv::cli::render_text({*document, *document}, false));
  return 0;
}
