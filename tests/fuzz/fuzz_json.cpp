// SPDX-License-Identifier: MIT
// Documents: whatever is parsed can be written and parsed again, and means the same.
#include <cstdint>
#include <cstdlib>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value = pv::parse_json(text);
  static_cast<void>(pv::printable(text));
  pv::json shown;
  pv::set_text(shown, "x", text);
  if (!pv::parse_json(pv::to_line(shown))) abort();
  if (!value) return 0;
  const std::string line = pv::to_line(*value);
  const auto again = pv::parse_json(line);
  if (!again || pv::to_line(*again) != line) abort();
  static_cast<void>(pv::get_string(*value, "v"));
  static_cast<void>(pv::get_u64(*value, "v"));
  if (value->is_object()) {
    const auto error = pv::error_from_json(*value);
    static_cast<void>(pv::error_to_json(error));
  }
  return 0;
}
