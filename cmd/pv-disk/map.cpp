// SPDX-License-Identifier: MIT
// map: which parts of a disk are allocated, read as zeroes, or are holes.
#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "serve/client.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct MapOptions {
  std::string disk;
  std::string host_key;
  RangeFlags range;
};

struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool hole = false;
  bool zero = false;
};

// Prints extents as they come, neighbours of one kind as one.
class Printer {
 public:
  explicit Printer(cli::Context& context) : context_(context) {}

  Result<> add(const Extent& extent) {
    if (last_.length != 0 && extent.hole == last_.hole && extent.zero == last_.zero) {
      last_.length += extent.length;
      return {};
    }
    TRY(print());
    last_ = extent;
    return {};
  }

  Result<> finish() {
    TRY(print());
    if (context_.text_output() || context_.selects_field()) return {};
    return context_.emit({{"v", cli::k_document_version},
                          {"summary",
                           {{"extents", count_},
                            {"allocated_bytes", bytes_[0]},
                            {"zero_bytes", bytes_[1]},
                            {"hole_bytes", bytes_[2]}}}});
  }

 private:
  Result<> print() {
    if (last_.length == 0) return {};
    constexpr const char* k_states[] = {"allocated", "zero", "hole"};
    const size_t state = last_.hole ? 2 : last_.zero ? 1 : 0;
    ++count_;
    bytes_[state] += last_.length;
    return context_.emit({{"v", cli::k_document_version},
                          {"extent",
                           {{"offset_bytes", last_.offset},
                            {"length_bytes", last_.length},
                            {"state", k_states[state]},
                            {"reads_zeroes", last_.zero}}}});
  }

  cli::Context& context_;
  Extent last_;
  uint64_t count_ = 0;
  uint64_t bytes_[3] = {};
};

Result<int> act(cli::Context& context, const MapOptions& options) {
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY(check_host_key(options.host_key));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  client.set_host_key(options.host_key);
  TRY_ASSIGN(const json state, at.disk.load());
  const uint64_t size = get_u64(state, "size_bytes");
  TRY_ASSIGN(const ByteRange range, range_from(options.range, get_u64(state, "sector_size", 512)));
  const uint64_t length = range.length.value_or(size - std::min(size, range.offset));
  Printer printer(context);
  // A server says as much at a time as fits in an answer.
  for (uint64_t done = 0; done < length;) {
    TRY_ASSIGN(const json reply, client.call({{"op", "map"},
                                              {"offset_bytes", range.offset + done},
                                              {"length_bytes", length - done}}));
    const json* extents = find(reply, "extents");
    const uint64_t before = done;
    for (const json& row : extents ? *extents : json::array()) {
      const Extent extent{get_u64(row, "offset_bytes"), get_u64(row, "length_bytes"),
                          get_bool(row, "hole"), get_bool(row, "zero")};
      TRY(printer.add(extent));
      done += extent.length;
    }
    if (done == before)
      return fail(Code::bug, fmt::format("disk '{}' maps nothing at {}", at.disk.display(), done));
  }
  TRY(printer.finish());
  return 0;
}

}  // namespace

void build_map(cli::Verb& verb) {
  auto options = std::make_shared<MapOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  add_host_key_flag(verb, options->host_key);
  add_range_flags(verb, options->range);
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
