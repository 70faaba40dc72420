// SPDX-License-Identifier: MIT
// Tables of qcow2 files: whatever the bytes, the image is refused, or all of it can be mapped and
// read, in bounded memory and time.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <sys/mman.h>

#include "base/file.hpp"
#include "verify/image.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pv;
  constexpr int k_most_extents = 1000;
  Fd fd(memfd_create("qcow2", MFD_CLOEXEC));
  if (!fd || !write_all(fd.get(), {reinterpret_cast<const char*>(data), size})) abort();
  const auto image = verify::make_qcow2_image(std::move(fd), "input");
  if (!image) return 0;
  const uint64_t end = (*image)->size();
  std::string bytes(4096, 'x');
  uint64_t at = 0;
  for (int i = 0; i < k_most_extents && at < end; ++i) {
    std::vector<blk::Extent> extents;
    if (!(*image)->map(at, end - at, extents) || extents.empty()) abort();
    uint64_t covered = 0;
    for (const blk::Extent& extent : extents) covered += extent.length;
    if (covered == 0 || covered > end - at) abort();
    const size_t length = std::min<uint64_t>(bytes.size(), end - at);
    if (!(*image)->read(at, bytes.data(), length)) abort();
    at += covered;
  }
  return 0;
}
