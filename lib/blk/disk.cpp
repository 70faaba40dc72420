// SPDX-License-Identifier: MIT
#include "blk/disk.hpp"

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_ops[k_op_count] = {"read", "write", "flush", "discard",
                                           "zero", "map",   "cache"};

}  // namespace

const char* op_name(Op op) {
  return k_ops[static_cast<int>(op)];
}

bool op_from_name(std::string_view name, Op& op) {
  for (int i = 0; i < k_op_count; ++i) {
    if (name != k_ops[i]) continue;
    op = static_cast<Op>(i);
    return true;
  }
  return false;
}

const char* front_name(Front front) {
  constexpr const char* k_names[] = {"host", "nbd", "vhost-user"};
  return k_names[static_cast<int>(front)];
}

const char* phase_name(Phase phase) {
  constexpr const char* k_names[] = {"before", "after_delay", "after_io"};
  return k_names[static_cast<int>(phase)];
}

Result<> Disk::resize(uint64_t) {
  return fail(Code::unsupported, "this disk cannot be resized");
}

Result<> Disk::save_state(StateOut& out) {
  return out.content(*this, -1);
}

Result<json> Disk::control(const json& request) {
  return fail(Code::unsupported, "no layer of this disk knows '" + get_string(request, "op") + "'");
}

}  // namespace pv::blk
