// SPDX-License-Identifier: MIT
// read, write, flush, discard, zero: host I/O through the disk's own server.
#define XXH_INLINE_ALL
#include <fcntl.h>
#include <xxhash.h>

#include <CLI/CLI.hpp>

#include "base/file.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"
#include "serve/control_ops.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

constexpr uint64_t k_max_document_data = 64 << 20;
constexpr uint64_t k_max_input = uint64_t{4} << 30;

struct Options {
  std::string disk;
  RangeFlags range;
  std::string from;
  bool raw = false;
  bool strict = false;
  bool fua = false;
  bool all = false;
};

struct Opened {
  target::DiskTarget at;
  serve::DiskClient client;
  uint64_t size;
  uint64_t sector_size;
};

Result<Opened> open_disk(cli::Context& context, const std::string& name) {
  TRY_ASSIGN(target::DiskTarget at, target::disk_target(context, name));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  TRY_ASSIGN(const json state, at.disk.load());
  return Opened{std::move(at), std::move(client), get_u64(state, "size_bytes"),
                get_u64(state, "sector_size", 512)};
}

// A request that is sent in several pieces fails whole too: checked before the first one.
Result<> check_range(const Opened& disk, uint64_t offset, uint64_t length) {
  if (offset <= disk.size && length <= disk.size - offset) return {};
  return fail(Code::out_of_range, fmt::format("{}: {} bytes at {} reach past the end ({} bytes)",
                                              disk.at.disk.display(), length, offset, disk.size));
}

json data_json(uint64_t offset, std::string_view bytes) {
  return {{"offset_bytes", offset},
          {"length_bytes", bytes.size()},
          {"b64", base64_encode(bytes)},
          {"xxh3", fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()))}};
}

Result<int> read(cli::Context& context, const Options& options) {
  if (options.raw) context.raw_output();
  TRY_ASSIGN(Opened disk, open_disk(context, options.disk));
  TRY_ASSIGN(const ByteRange range, range_from(options.range, disk.sector_size));
  const uint64_t length = range.length.value_or(disk.sector_size);
  TRY(check_range(disk, range.offset, length));
  if (!options.raw && length > k_max_document_data)
    return fail(Code::usage,
                fmt::format("more than {} bytes in a document; use --raw", k_max_document_data));
  std::string bytes;
  for (uint64_t at = 0; at < length;) {
    const uint64_t n = std::min<uint64_t>(serve::k_max_host_io, length - at);
    TRY_ASSIGN(const std::string piece, disk.client.read(range.offset + at, n));
    at += n;
    if (options.raw)
      TRY(context.emit_raw(piece));
    else
      bytes += piece;
  }
  if (options.raw) return 0;
  context.document()["data"] = data_json(range.offset, bytes);
  TRY(context.emit());
  return 0;
}

// What is to be written: --from, else stdin when the disk was named, else the document's data.
Result<std::string> payload(cli::Context& context, const Options& options, ByteRange& range) {
  if (!options.from.empty() && options.from != "-") return read_file(options.from, k_max_input);
  if (!context.has_input() || (options.from == "-" && context.input_from_file()))
    return read_all(STDIN_FILENO, k_max_input, "stdin");
  const json* data = find(context.document(), "data");
  if (!data || !find(*data, "b64"))
    return fail(Code::bad_document,
                "nothing to write: the document has no \"data\"; use --from FILE");
  if (options.range.sector.empty() && options.range.offset.empty()) {
    const json* offset = find(*data, "offset_bytes");
    if (!offset || !offset->is_number_unsigned())
      return fail(Code::bad_document, "data.offset_bytes is not a number of bytes");
    range.offset = offset->get<uint64_t>();
  }
  return base64_decode(get_string(*data, "b64"));
}

Result<int> write(cli::Context& context, const Options& options) {
  TRY_ASSIGN(Opened disk, open_disk(context, options.disk));
  TRY_ASSIGN(ByteRange range, range_from(options.range, disk.sector_size));
  TRY_ASSIGN(const std::string bytes, payload(context, options, range));
  if (range.length && *range.length != bytes.size())
    return fail(Code::usage,
                fmt::format("there are {} bytes to write, not {}", bytes.size(), *range.length));
  TRY(check_range(disk, range.offset, bytes.size()));
  const uint64_t tail = (range.offset + bytes.size()) % disk.sector_size;
  if (options.strict && (tail != 0 || range.offset % disk.sector_size != 0))
    return fail(Code::invalid, fmt::format("{} bytes at {} are not whole sectors of {} (--strict)",
                                           bytes.size(), range.offset, disk.sector_size));
  for (uint64_t at = 0; at < bytes.size();) {
    const uint64_t n = std::min<uint64_t>(serve::k_max_host_io, bytes.size() - at);
    TRY(disk.client.write(range.offset + at, std::string_view(bytes).substr(at, n), options.fua));
    at += n;
  }
  context.document()["data"] = {
      {"offset_bytes", range.offset},
      {"length_bytes", bytes.size()},
      {"partial_tail", tail != 0},
      {"xxh3", fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()))}};
  TRY(context.emit());
  return 0;
}

// discard and zero.
Result<int> change(cli::Context& context, const Options& options, const char* op) {
  TRY_ASSIGN(Opened disk, open_disk(context, options.disk));
  TRY_ASSIGN(ByteRange range, range_from(options.range, disk.sector_size));
  const RangeFlags& given = options.range;
  const bool ranged = !(given.sector + given.count + given.offset + given.length).empty();
  if (options.all && ranged)
    return fail(Code::usage, fmt::format("{}: --all and a range exclude each other", op));
  if (options.all) range = {0, disk.size};
  if (!range.length)
    return fail(Code::usage, fmt::format("{}: say how much (--count, --length or --all)", op));
  TRY(disk.client.call({{"op", op},
                        {"offset_bytes", range.offset},
                        {"length_bytes", *range.length},
                        {"fua", options.fua}}));
  context.document()["data"] = {{"offset_bytes", range.offset}, {"length_bytes", *range.length}};
  TRY(context.emit());
  return 0;
}

Result<int> flush(cli::Context& context, const Options& options) {
  TRY_ASSIGN(Opened disk, open_disk(context, options.disk));
  TRY(disk.client.call({{"op", "flush"}}));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(disk.at.disk, deadline));
  TRY(context.emit());
  return 0;
}

std::shared_ptr<Options> start(cli::Verb& verb) {
  auto options = std::make_shared<Options>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  return options;
}

void build_change(cli::Verb& verb, const char* op) {
  auto options = start(verb);
  add_range_flags(verb, options->range);
  verb.flag("--all", options->all, "The whole disk");
  verb.flag("--fua", options->fua, "On stable storage before it returns");
  verb.run([options, op](cli::Context& context) { return change(context, *options, op); });
}

}  // namespace

void build_read(cli::Verb& verb) {
  auto options = start(verb);
  add_range_flags(verb, options->range);
  verb.flag("--raw", options->raw, "Print the bytes instead of a document");
  verb.run([options](cli::Context& context) { return read(context, *options); });
}

void build_write(cli::Verb& verb) {
  auto options = start(verb);
  add_range_flags(verb, options->range);
  verb.option("--from", options->from, "FILE",
              "Where the bytes come from (default: stdin, or the document's data)");
  verb.flag("--strict", options->strict, "Refuse what does not cover whole sectors");
  verb.flag("--fua", options->fua, "On stable storage before it returns");
  verb.run([options](cli::Context& context) { return write(context, *options); });
}

void build_flush(cli::Verb& verb) {
  auto options = start(verb);
  verb.run([options](cli::Context& context) { return flush(context, *options); });
}

void build_discard(cli::Verb& verb) {
  build_change(verb, "discard");
}
void build_zero(cli::Verb& verb) {
  build_change(verb, "zero");
}

}  // namespace pv::diskcmd
