// SPDX-License-Identifier: MIT
// QEMU's state, as a snapshot may be damaged: whatever is in it is refused or has an end inside.
#include <cstdlib>

#include "vm/device_state.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto end = pv::vm::end_of_ram(bytes); end && *end > size) abort();
  const size_t half = size / 2;
  const auto joined = pv::vm::join_device_state(bytes.substr(0, half), bytes.substr(half));
  if (joined && joined->size() < half) abort();
  return 0;
}
