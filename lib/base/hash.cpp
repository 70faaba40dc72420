// SPDX-License-Identifier: MIT
#include "base/hash.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>
#define XXH_INLINE_ALL
#include <cstdint>
#include <xxhash.h>

#include <fmt/format.h>

namespace pv {
namespace {

constexpr size_t k_block = 64 << 10;
constexpr off_t k_window = 1 << 20;

bool is_zero(const char* bytes, size_t size) {
  return size == 0 || (*bytes == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0);
}

void add_blocks(RunningHash& hash, const char* bytes, size_t size, uint64_t offset) {
  for (size_t at = 0; at < size; at += k_block) {
    const size_t length = std::min(k_block, size - at);
    if (is_zero(bytes + at, length)) continue;
    const uint64_t place = offset + at;
    hash.add({reinterpret_cast<const char*>(&place), sizeof place});
    hash.add({bytes + at, length});
  }
}

}  // namespace

RunningHash::RunningHash()
    : state_(XXH3_createState(),
             [](void* state) { XXH3_freeState(static_cast<XXH3_state_t*>(state)); }) {
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}

void RunningHash::add(std::string_view bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_.get()), bytes.data(), bytes.size());
}

std::string RunningHash::text() const {
  return fmt::format("xxh3:{:016x}",
                     XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_.get())));
}

Result<std::string> hash_of_file(int fd, std::string_view name) {
  struct stat st {};
  if (fstat(fd, &st) < 0) return fail_errno(fmt::format("cannot stat {}", name), errno);
  RunningHash hash;
  const auto size = static_cast<uint64_t>(st.st_size);
  hash.add({reinterpret_cast<const char*>(&size), sizeof size});
  std::vector<char> bytes(static_cast<size_t>(k_window));
  for (off_t at = 0; at < st.st_size;) {
    off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    off_t hole = data < 0 ? st.st_size : lseek(fd, data, SEEK_HOLE);
    if (data < 0) data = at;  // a file system without SEEK_DATA
    if (hole < 0) hole = st.st_size;
    data -= data % static_cast<off_t>(k_block);  // blocks are the same wherever the holes are
    data = std::max(data, at);
    hole = std::min(st.st_size, (hole + static_cast<off_t>(k_block) - 1) /
                                    static_cast<off_t>(k_block) * static_cast<off_t>(k_block));
    hole = std::min(hole, data + k_window);
    // Not mapped: on a full tmpfs, or in a file that is cut meanwhile, touching a page would be
    // fatal.
    const auto length = static_cast<size_t>(hole - data);
    for (size_t done = 0; done < length;) {
      const ssize_t n =
          pread(fd, bytes.data() + done, length - done, data + static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno(fmt::format("cannot read {}", name), errno);
      if (n == 0) return fail(Code::io, fmt::format("{} was cut while it was read", name));
      done += static_cast<size_t>(n);
    }
    add_blocks(hash, bytes.data(), length, static_cast<uint64_t>(data));
    at = hole;
  }
  return hash.text();
}

}  // namespace pv
