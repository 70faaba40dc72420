// SPDX-License-Identifier: MIT
// A disk of one's own on a base that stays as it is: reads fall through to the base until a block
// is written, the changes are in an overlay file. The parts are in blk/cow/.
#include <algorithm>
#include <bit>
#include <fcntl.h>

#include <fmt/format.h>

#include "base/rng.hpp"
#include "base/units.hpp"
#include "blk/cow/base.hpp"
#include "blk/cow/disk.hpp"
#include "blk/layer/layers.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_cow_params[] = {
    {"file", "PATH", "overlay, made when it is missing (default: one that goes with the server)",
     ParamSpec::path},
    {"block", "SIZE", "block size of a new overlay, 4k to 1M (default 4k)"},
    {"size", "SIZE", "size of a new overlay's disk (default: the base's)"},
    {"rebase", "yes", "take the base for the right one although it has changed"},
    {"read_only", "yes", "the overlay is there, is shared, and is never written"},
};

struct Wanted {
  std::string file;
  uint64_t block = 0;  // 0: not given
  uint64_t size = 0;
  bool rebase = false;
  bool read_only = false;
};

Result<Wanted> parse(const LayerSpec& spec, const Geometry& base) {
  Wanted wanted;
  for (const auto& [key, value] : spec.params) {
    if (key == "file") {
      wanted.file = value;
    } else if (key == "block") {
      TRY_ASSIGN(wanted.block, parse_size(value));
      if (!std::has_single_bit(wanted.block) || wanted.block < k_cow_min_block ||
          wanted.block > k_cow_max_block || wanted.block < base.sector_size)
        return fail(Code::usage,
                    fmt::format("layer 'cow': block={} is no power of two from {} to 1M", value,
                                format_size(std::max(k_cow_min_block, base.sector_size))));
    } else if (key == "size") {
      TRY_ASSIGN(wanted.size, parse_size(value));
      if (wanted.size == 0 || wanted.size % base.sector_size != 0)
        return fail(Code::usage,
                    fmt::format("layer 'cow': size={} is not a number of sectors of {}", value,
                                base.sector_size));
    } else if (value == "yes" || value == "no") {
      (key == "rebase" ? wanted.rebase : wanted.read_only) = value == "yes";
    } else {
      return fail(Code::usage, fmt::format("layer 'cow': {}={} is neither yes nor no", key, value));
    }
  }
  if (wanted.read_only && (wanted.file.empty() || wanted.rebase))
    return fail(Code::usage, "layer 'cow': read_only=yes goes with file=, and without rebase=");
  if (spec.params.count("file") != 0 && wanted.file.empty())
    return fail(Code::usage, "layer 'cow': file= names no file");
  return wanted;
}

Result<std::unique_ptr<CowMap>> make_new(std::unique_ptr<CowStore> store, Disk& base,
                                         const Wanted& wanted, const Env& env) {
  CowHeader header;
  header.sector = base.geometry().sector_size;
  header.block = static_cast<uint32_t>(
      wanted.block != 0 ? wanted.block : std::max(k_cow_min_block, header.sector));
  header.size = wanted.size != 0 ? wanted.size : base.geometry().size;
  header.id = mix(env.seed, env.clock.now_ns());
  header.base_limit = std::min(header.size, base.geometry().size);
  if (store->temporary()) {  // nobody will ever ask whether the base is still the same
    header.base.size = base.geometry().size;
    return CowMap::create(std::move(store), header);
  }
  TRY_ASSIGN(header.base, look_at_base(base, env.loop));
  TRY_ASSIGN(const bool whole, small_base(base, env.loop));
  TRY(read_base(base, env.loop, whole, header.base));
  return CowMap::create(std::move(store), header);
}

Result<> check_opened(CowMap& map, Disk& base, const Wanted& wanted, const Env& env) {
  const CowHeader& header = map.header();
  const auto other = [&](const char* what, uint64_t has, uint64_t given) {
    return fail(Code::invalid,
                fmt::format("layer 'cow': overlay {} has a {} of {} bytes, {} were given",
                            map.store().name(), what, has, given));
  };
  if (wanted.block != 0 && wanted.block != header.block)
    return other("block", header.block, wanted.block);
  if (wanted.size != 0 && wanted.size != header.size)
    return other("size", header.size, wanted.size);
  if (header.sector != base.geometry().sector_size)
    return other("sector", header.sector, base.geometry().sector_size);
  if (wanted.read_only && env.bases_are_known) {
    if (header.base.size == base.geometry().size) return {};
    return other("base", header.base.size, base.geometry().size);
  }
  TRY_ASSIGN(const std::string difference, base_differs(base, env.loop, header.base));
  if (difference.empty()) return {};
  if (!wanted.rebase)
    return fail(Code::invalid, fmt::format("the base has changed under overlay {}: {} (rebase=yes "
                                           "takes it all the same)",
                                           map.store().name(), difference));
  TRY_ASSIGN(BaseIdentity now, look_at_base(base, env.loop));
  TRY_ASSIGN(const bool whole, small_base(base, env.loop));
  TRY(read_base(base, env.loop, whole, now));
  return map.rebase(now);
}

}  // namespace

std::span<const ParamSpec> cow_params() {
  return k_cow_params;
}

Result<std::unique_ptr<Disk>> make_cow(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                       const Env& env) {
  TRY_ASSIGN(const Wanted wanted, parse(spec, lower->geometry()));
  if (env.opener == nullptr) return fail(Code::bug, "layer 'cow' needs files");
  TRY_ASSIGN(AsyncIo * io, env.opener->async_io());
  TRY_ASSIGN(std::unique_ptr<CowStore> store, open_cow_store(wanted.file, wanted.read_only, *io));
  TRY_ASSIGN(const uint64_t length, store->length());
  TRY_ASSIGN(const bool blank, store->blank());
  std::unique_ptr<CowMap> map;
  if ((length == 0 || blank) && !wanted.read_only) {
    TRY_ASSIGN(map, make_new(std::move(store), *lower, wanted, env));
  } else {
    TRY_ASSIGN(map, CowMap::open(std::move(store)));
    TRY(check_opened(*map, *lower, wanted, env));
  }
  return std::make_unique<CowDisk>(std::move(lower), std::move(map));
}

}  // namespace pv::blk
