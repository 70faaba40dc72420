// SPDX-License-Identifier: MIT
// What layers are told that they remembered, out of a snapshot: a stack takes it or refuses it, and
// what it has taken it can save and take again. The input is a JSON line, then the records.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "blk/state.hpp"

namespace {

using namespace pv;

std::unique_ptr<blk::Disk> stack(Clock& clock, Timers& timers) {
  blk::Geometry geometry;
  geometry.size = 1 << 20;

  const std::vector<blk::LayerSpec> layers = {{"reserve", {}}, {"fault", {}}, {"cache", {}}};
  auto made = blk::build_stack(*blk::make_memory_disk(geometry), layers, {clock, timers});
  if (!made) abort();
  return std::move(*made);
}

Fd file_of(std::string_view bytes) {
  Fd fd(memfd_create("state", MFD_CLOEXEC));
  if (!fd || !write_all(fd.get(), bytes) || lseek(fd.get(), 0, SEEK_SET) != 0) abort();
  return fd;
}

Result<> load(blk::Disk& disk, const json& sections, std::string_view records) {
  TRY_ASSIGN(blk::StateIn in, blk::StateIn::open(sections, file_of(records)));
  TRY(disk.load_state(in));
  return in.end();
}

struct Out final : blk::StateOut {
  using StateOut::StateOut;
  Result<> content(blk::Disk&, int) override { return {}; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(input.find('\n'), size);
  const auto sections = parse_json(input.substr(0, line));
  if (!sections) return 0;
  ManualClock clock;
  ManualTimers timers(clock);
  const auto disk = stack(clock, timers);
  const auto loaded = load(*disk, *sections, input.substr(std::min(line + 1, size)));
  if (!loaded) {
    if (loaded.error().code != Code::snapshot_corrupt) abort();
    return 0;
  }
  const Fd records(memfd_create("state", MFD_CLOEXEC));
  Out out(records.get());
  if (!disk->save_state(out)) abort();
  const auto again = out.finish();
  if (!again) abort();
  std::string bytes(static_cast<size_t>(lseek(records.get(), 0, SEEK_CUR)), '\0');
  if (pread(records.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    abort();
  const auto second = stack(clock, timers);
  if (!load(*second, *parse_json(to_line(*again)), bytes)) abort();
  return 0;
}
