// SPDX-License-Identifier: MIT
// Layer specs, base64, sizes, durations, names: no input crashes them, what they take has a
// meaning.
#include <cstdint>
#include <cstdlib>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/registry.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto bytes = pv::base64_decode(text)) {
    const auto again = pv::base64_decode(pv::base64_encode(*bytes));
    if (!again || *again != *bytes) abort();
  }
  const auto back = pv::base64_decode(pv::base64_encode(text));
  if (!back || *back != text) abort();
  if (const auto bytes = pv::parse_size(text)) {
    if (*bytes > static_cast<uint64_t>(INT64_MAX)) abort();
    static_cast<void>(pv::format_size(*bytes));
  }
  if (const auto ns = pv::parse_duration(text)) static_cast<void>(pv::format_duration(*ns));
  if (pv::check_name("name", text) && (text.find('/') != text.npos || text.size() > 64)) abort();
  if (const auto layer = pv::blk::parse_layer(text)) {
    if (!pv::check_name("layer", layer->name)) abort();
    static_cast<void>(pv::blk::check_layers({&*layer, 1}));
  } else if (pv::exit_class(layer.error().code) != 2) {
    abort();
  }
  return 0;
}
