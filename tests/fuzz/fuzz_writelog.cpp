// SPDX-License-Identifier: MIT
// Write logs, ours and those of dm-log-writes: whatever the bytes, they are refused or give entries
// that can be, and what is made of one can be read. Our checksums would keep a fuzzer out, so they
// are put right first: the first byte says which log it is to be.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.hpp"
#include "base/loop.hpp"
#include "blk/backend/memory.hpp"
#include "blk/record/format.hpp"
#include "verify/log/dm_log.hpp"
#include "verify/log/replay.hpp"
#include "verify/log/requests.hpp"

namespace {

using namespace pv;

constexpr uint64_t k_size = 1 << 20;

std::string path_of(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

Fd file_of(std::string_view bytes) {
  Fd fd(memfd_create("log", MFD_CLOEXEC));
  if (!fd || !write_all(fd.get(), bytes)) abort();
  return fd;
}

// Heads and entries of the input with the checksums that they need.
std::string with_checksums(std::string_view input) {
  blk::LogHead head;
  head.id = 7;
  head.size = k_size;
  std::string log(blk::k_log_head, '\0');
  blk::encode_log_head(head, log.data());
  while (input.size() >= 24) {
    blk::LogEntry entry;
    entry.kind = static_cast<blk::LogKind>(input[0]);
    entry.flags = static_cast<uint8_t>(input[1]);
    entry.n = static_cast<uint8_t>(input[2]);
    entry.detail = static_cast<uint8_t>(input[3]);
    std::memcpy(&entry.data_len, input.data() + 4, 4);
    std::memcpy(&entry.offset, input.data() + 8, 8);
    std::memcpy(&entry.length, input.data() + 16, 8);
    input.remove_prefix(24);
    std::string data(input.substr(0, std::min<size_t>(entry.data_len, input.size())));
    input.remove_prefix(data.size());
    entry.hash = data.empty() ? 0 : blk::log_hash(data);
    char bytes[blk::k_log_entry];
    blk::encode_log_entry(entry, head.id, log.size(), bytes);
    log.append(bytes, sizeof bytes);
    log += data;
    log.append((8 - log.size() % 8) % 8, '\0');
  }
  return log;
}

void read_log(const std::string& path) {
  auto reader = blk::LogReader::open(path);
  if (!reader) return;
  verify::LogRequests requests(std::move(*reader));
  uint64_t last = 0;
  while (true) {
    const auto one = requests.next();
    if (!one) abort();
    if (!*one) break;
    if ((*one)->entry.n != ++last) abort();
  }
  const auto loop = Loop::create();
  blk::Geometry geometry;
  geometry.size = k_size;
  const auto disk = blk::make_memory_disk(geometry);
  verify::ReplayPlan plan;
  plan.force = true;
  static_cast<void>(verify::replay(path, **disk, **loop, plan));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string out = "/dev/shm/fuzz_writelog." + std::to_string(getpid());
  if (data[0] % 3 == 0) {
    const Fd log = file_of(input);
    read_log(path_of(log.get()));
  } else if (data[0] % 3 == 1) {
    const Fd log = file_of(with_checksums(input));
    read_log(path_of(log.get()));
    const auto made = verify::export_dm_log(path_of(log.get()), out);
    if (made && !verify::DmReader::open(out)) abort();
  } else {
    const Fd log = file_of(input);
    const auto made = verify::import_dm_log(path_of(log.get()), out, 0);
    if (made) read_log(out);
  }
  unlink(out.c_str());
  return 0;
}
