// SPDX-License-Identifier: MIT
// Fault rules: a rule that is taken can be shown, and what is shown is taken again and the same.
#include <cstdint>
#include <cstdlib>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/rule.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pv::blk::RuleGround ground;
  ground.geometry.size = 1 << 20;
  ground.volatile_cache = true;
  const auto object = pv::parse_json({reinterpret_cast<const char*>(data), size});
  if (!object) return 0;
  auto rule = pv::blk::Rule::parse(*object, ground);
  if (!rule) {
    if (pv::exit_class(rule.error().code) != 2 && rule.error().code != pv::Code::unsupported)
      abort();
    return 0;
  }
  if (rule->id().empty()) rule->set_id("r1");
  const auto shown = pv::parse_json(pv::to_line(rule->to_json()));
  if (!shown) abort();
  const auto again = pv::blk::Rule::parse(*shown, ground);
  if (!again || again->definition() != rule->definition()) abort();
  for (uint64_t i = 0; i < 64; ++i) {
    pv::blk::Request request;
    request.op = static_cast<pv::blk::Op>(i % pv::blk::k_op_count);
    request.offset = i * 16'384;
    request.length = 512 * (1 + i % 9);
    if (rule->matches(request, {}, 0)) static_cast<void>(rule->count());
  }
  return 0;
}
