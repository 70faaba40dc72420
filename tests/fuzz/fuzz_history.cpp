// SPDX-License-Identifier: MIT
// Histories: whatever the bytes, the file is refused or every entry of it can be read, written and
// sampled, and what comes out is what was written or counts as damaged. An entry's own check would
// keep a fuzzer out, so half of the inputs are changes to a file that was made in order.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.hpp"
#include "blk/mirror/history_file.hpp"

namespace {

using namespace pv;
using blk::HistoryFile;

constexpr uint64_t k_block = HistoryFile::k_block;
constexpr uint64_t k_blocks = 512;
constexpr uint64_t k_known_flags = HistoryFile::k_either | HistoryFile::k_unknown;

std::string path_of(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

HistoryFile::Entry entry_of(uint64_t seed) {
  return {seed * 0x9e3779b97f4a7c15, seed + 1, static_cast<uint32_t>(seed % 7) + 1,
          static_cast<uint32_t>(seed % 4)};
}

// A history of whole entries in which the input turns bytes, three bytes of it each.
void make_and_turn(int fd, std::string_view input) {
  {
    auto file = HistoryFile::open(path_of(fd), k_blocks * k_block);
    if (!file) abort();
    std::vector<HistoryFile::Entry> entries;
    for (uint64_t i = 0; i < k_blocks; ++i) entries.push_back(entry_of(i));
    if (file->write(0, entries) != 0) abort();
  }
  for (; input.size() >= 3; input.remove_prefix(3)) {
    uint16_t at = 0;
    std::memcpy(&at, input.data(), sizeof at);
    if (pwrite(fd, input.data() + 2, 1, at) != 1) abort();
  }
}

// Nobody has forged an entry: each is one of those that were written, or nothing is known.
void read_all(HistoryFile& file, bool made) {
  std::vector<HistoryFile::Entry> entries;
  if (file.read(0, k_blocks, entries) != 0 || entries.size() != k_blocks) abort();
  for (uint64_t i = 0; i < k_blocks; ++i) {
    const HistoryFile::Entry& entry = entries[i];
    if ((entry.flags & ~k_known_flags) != 0 && made) abort();
    const HistoryFile::Entry wanted = entry_of(i);
    if (made && entry.generation != 0 && std::memcmp(&entry, &wanted, sizeof wanted) != 0) abort();
  }
}

void use(HistoryFile& file) {
  const auto known = file.sample(64, 0);
  for (const auto& [block, entry] : known)
    if (block >= k_blocks || entry.generation == 0 || entry.flags != 0) abort();
  std::vector<HistoryFile::Entry> entries = {entry_of(3), entry_of(4)}, again;
  if (file.write(k_blocks - 2, entries) != 0 || file.read(k_blocks - 2, 2, again) != 0) abort();
  if (std::memcmp(entries.data(), again.data(), 2 * sizeof entries[0]) != 0) abort();
  if (!file.resize(2 * k_blocks * k_block) || file.read(2 * k_blocks - 1, 1, again) != 0) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool made = data[0] % 2 == 0;
  const Fd fd(memfd_create("history", MFD_CLOEXEC));
  if (!fd) abort();
  if (made)
    make_and_turn(fd.get(), input);
  else if (!write_all(fd.get(), input))
    abort();
  auto file = HistoryFile::open(path_of(fd.get()), k_blocks * k_block);
  if (!file) return 0;
  // One that was in use on a machine that went down begins anew.
  read_all(*file, made && !file->forgotten());
  use(*file);
  return 0;
}
