// SPDX-License-Identifier: MIT
// Fault rules: a rule that is taken can be shown, and what is shown is taken again and the same.
#include <cstdint>
#include <cstdlib>

#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "blk/fault/rule.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t k_size = 1 << 20;
  const auto object = pv::parse_json({reinterpret_cast<const char*>(data), size});
  if (!object) return 0;
  auto rule = pv::blk::Rule::parse(*object, k_size);
  if (!rule) {
    if (pv::exit_class(rule.error().code) != 2) abort();
    return 0;
  }
  if (rule->id.empty()) rule->id = "r1";
  const auto shown = pv::parse_json(pv::to_line(rule->to_json()));
  if (!shown) abort();
  const auto again = pv::blk::Rule::parse(*shown, k_size);
  if (!again || again->definition() != rule->definition()) abort();
  for (uint64_t i = 0; i < 64; ++i) {
    pv::blk::Request request;
    request.op = static_cast<pv::blk::Op>(i % pv::blk::k_op_count);
    request.offset = i * 16'384;
    request.length = 512 * (1 + i % 9);
    static_cast<void>(rule->take(request));
  }
  return 0;
}
