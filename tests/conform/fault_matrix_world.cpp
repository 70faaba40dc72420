// SPDX-License-Identifier: MIT
// What a disk should be, worked out from the requests alone.
#include "fault_matrix.hpp"

namespace pv::test::matrix {

void put(std::string& disk, uint64_t offset, std::string_view bytes) {
  disk.replace(offset, bytes.size(), bytes);
}

void World::write(uint64_t offset, std::string_view bytes, uint32_t flags) {
  put(shown, offset, bytes);
  if ((flags & k_fua) == 0) return;
  fua_bytes += bytes.size();
  if (cached) put(stable, offset, bytes);
}

void World::acknowledge(const Ask& ask) {
  if (ask.changes()) put(honest, ask.offset, ask.bytes());
}

void World::pass(const Ask& ask, Answer& answer) {
  if (ask.op == Op::read) answer.data = shown.substr(ask.offset, ask.length);
  if (ask.changes()) write(ask.offset, ask.bytes(), ask.flags);
  // The cache keeps no discards.
  if (ask.op == Op::discard && cached) put(stable, ask.offset, ask.bytes());
  acknowledge(ask);
  if (ask.op != Op::flush) return;
  ++flushes;
  if (cached) stable = shown;
}

void World::advance(uint64_t ns) {
  now_ns += ns;
  while (!late.empty() && late.front().due_ns <= now_ns) {
    put(shown, late.front().offset, late.front().data);
    late.erase(late.begin());
  }
}

}  // namespace pv::test::matrix
