// SPDX-License-Identifier: MIT
// The stacks that the suite goes through: a line here is what a new layer is tested by.

#include "../catch.hpp"
#include "base/file.hpp"
#include "support.hpp"

namespace pv::test {

void write_key(const TempDir& folder) {
  std::string digits;
  for (int i = 0; i < 128; ++i) digits += "0123456789abcdef"[(i * 7 + i / 16) % 16];
  REQUIRE(write_file_atomic(folder.path("key"), digits));
}

namespace {

using blk::Op;
using Rows = std::vector<StackRow>;

// Layers that change what passes, or only look at it.
Rows passing() {
  return {
      {.name = "bare", .layers = {}},
      {.name = "delay", .layers = {"delay:for=100us"}},
      {.name = "discard(zeroes)",
       .layers = {"discard:behaviour=zeroes"},
       .changes = k_new_discard,
       .decoupled = {Op::discard}},
      {.name = "discard(grain)",
       .layers = {"discard:behaviour=unspecified,granularity=4096"},
       .changes = k_new_discard | k_new_granularity},
      {.name = "discard(noise)",
       .layers = {"discard:behaviour=unspecified,noise=7,granularity=8192"},
       .changes = k_new_discard | k_new_granularity,
       .decoupled = {Op::discard}},
      {.name = "discard(ignored)",
       .layers = {"discard:behaviour=ignored"},
       .changes = k_new_discard,
       .decoupled = {Op::discard}},
      {.name = "fault", .layers = {"fault"}},
      {.name = "fault+delay", .layers = {"fault", "delay:for=100us"}},
      {.name = "fault(rule)", .layers = {"fault"}, .with_rule = true},
      {.name = "fua(honoured)", .layers = {"fua:mode=honoured"}, .changes = k_new_fua},
      {.name = "fua(ignored)", .layers = {"fua:mode=ignored"}, .changes = k_new_fua},
      {.name = "readonly", .layers = {"readonly"}, .changes = k_new_read_only | k_no_resize},
      {.name = "stats", .layers = {"stats"}},
      {.name = "throttle", .layers = {"throttle:iops=1000000,bps=100G"}},
      {.name = "throttle+delay",
       .layers = {"throttle:iops=50000,iops-read=100000,burst=1ms", "delay:for=50us"}},
      {.name = "stats+fault+stats", .layers = {"stats", "fault", "stats:name=below"}},
      {.name = "record", .layers = {"record:file=@/log"}},
      {.name = "record+delay", .layers = {"record:file=@/log", "delay:for=50us"}},
      {.name = "reserve", .layers = {"reserve"}},
      {.name = "reserve(ptpl)", .layers = {"reserve:ptpl=@/ptpl", "delay:for=50us"}},
  };
}

// Layers that hold data back, or make something else of it.
Rows holding() {
  const std::vector<Op> cached = {Op::read, Op::write, Op::zero};
  return {
      {.name = "cache", .layers = {"cache"}, .decoupled = cached},
      {.name = "cache(small)", .layers = {"cache:size=64K"}, .decoupled = cached},
      {.name = "cache+delay", .layers = {"cache:size=256K", "delay:for=50us"}, .decoupled = cached},
      {.name = "cache+discard",
       .layers = {"cache", "discard:behaviour=unspecified,granularity=64K"},
       .decoupled = {Op::read, Op::write, Op::zero, Op::discard}},
      {.name = "crypt",
       .layers = {"crypt:key-file=@/key"},
       .changes = k_new_discard,
       .decoupled = {Op::zero},
       .scrambled = true},
      {.name = "crypt+cache",
       .layers = {"crypt:key-file=@/key", "cache:size=256K"},
       .decoupled = cached,
       .scrambled = true},
      {.name = "stats+cache+crypt",
       .layers = {"stats", "cache", "crypt:key-file=@/key"},
       .decoupled = cached,
       .scrambled = true},
  };
}

// Layers that keep data in places of their own.
Rows placing() {
  const std::vector<Op> by_either_leg = {Op::read, Op::write, Op::flush, Op::discard,
                                         Op::zero, Op::map,   Op::cache};
  constexpr uint32_t k_overlay = k_new_granularity | k_new_discard | k_new_fua;
  return {
      {.name = "cow", .layers = {"cow"}, .changes = k_overlay, .below = Below::never},
      {.name = "cow(4k)",
       .layers = {"cow:block=4k,file=@/over"},
       .changes = k_overlay,
       .below = Below::never},
      {.name = "cow(1M)",
       .layers = {"cow:block=1M,file=@/over"},
       .changes = k_overlay,
       .below = Below::never},
      {.name = "cow+cow",
       .layers = {"cow:file=@/b", "cow:block=16k,file=@/a"},
       .below = Below::never},
      {.name = "fault+cow+fault",
       .layers = {"fault", "cow:block=8k,file=@/over", "fault"},
       .below = Below::never},
      {.name = "readcache", .layers = {"readcache:populate=both"}, .decoupled = {Op::read}},
      {.name = "readcache(small)",
       .layers = {"readcache:size=128k,populate=both"},
       .decoupled = {Op::read}},
      {.name = "readcache(file)", .layers = {"readcache:file=@/fast"}, .decoupled = {Op::read}},
      {.name = "readcache(file, small)",
       .layers = {"readcache:file=@/fast,size=128k,populate=write"},
       .decoupled = {Op::read}},
      {.name = "cow+readcache",
       .layers = {"cow:file=@/over", "readcache:populate=both"},
       .below = Below::never},
      {.name = "stats+fault+cow",
       .layers = {"stats", "fault", "cow:file=@/over"},
       .below = Below::never},
      {.name = "stripe",
       .layers = {"stripe:with=@/second,chunk=64K"},
       .files = {"second"},
       .changes = k_new_size | k_new_id,
       .below = Below::other,
       .min_size = 65536},
      {.name = "history", .layers = {"history:file=@/history"}},
      {.name = "mirror",
       .layers = {"mirror:with=@/second,identical=assume"},
       .files = {"second"},
       .changes = k_new_discard | k_new_granularity | k_new_fua,
       .decoupled = by_either_leg},
      {.name = "mirror+fault",
       .layers = {"mirror:with=@/second", "fault"},
       .files = {"second"},
       .decoupled = by_either_leg},
      {.name = "fault+stripe(3)",
       .layers = {"fault", "stripe:with=@/second+@/third,chunk=8K"},
       .files = {"second", "third"},
       .below = Below::other,
       .min_size = 8192},
  };
}

}  // namespace

const std::vector<StackRow>& stacks() {
  static const Rows table = [] {
    Rows all = passing();
    for (const Rows& more : {holding(), placing()}) all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  return table;
}

}  // namespace pv::test
