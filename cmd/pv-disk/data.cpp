// SPDX-License-Identifier: MIT
// read, write, flush, discard, zero: host I/O through the disk's own server.
#define XXH_INLINE_ALL
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"
#include "serve/control_ops.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

constexpr uint64_t k_max_document_data = 64 << 20;

struct DataOptions {
  std::string disk;
  RangeFlags range;
  std::string from;
  std::string host_key;
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

Result<Opened> open_disk(cli::Context& context, const DataOptions& options) {
  TRY(check_host_key(options.host_key));
  TRY_ASSIGN(target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  client.set_host_key(options.host_key);
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

Result<int> read(cli::Context& context, const DataOptions& options) {
  if (options.raw) context.raw_output();
  TRY_ASSIGN(Opened disk, open_disk(context, options));
  TRY_ASSIGN(const ByteRange range, range_from(options.range, disk.sector_size));
  const uint64_t length = range.length.value_or(disk.sector_size);
  TRY(check_range(disk, range.offset, length));
  if (!options.raw && length > k_max_document_data)
    return fail(Code::usage,
                fmt::format("more than {} bytes in a document; use --raw", k_max_document_data));
  std::string bytes;
  TRY(disk.client.read(range.offset, length, [&](const std::string& piece) -> Result<> {
    if (options.raw) return context.emit_raw(piece);
    bytes += piece;
    return {};
  }));
  if (options.raw) return 0;
  context.document()["data"] = data_json(range.offset, bytes);
  TRY(context.emit());
  return 0;
}

// What is to be written: bytes in memory, or a file that is read piece by piece.
struct Payload {
  std::string bytes;
  Fd file;
  uint64_t size = 0;
};

// A file's rest, from where the descriptor stands; anything else is read to its end, as long as it
// fits in `room`, because a write that does not fit must not be begun.
Result<Payload> payload_of(Fd file, const std::string& name, uint64_t room,
                           const Deadline& deadline) {
  Payload payload;
  struct stat st {};
  const off_t at = lseek(file.get(), 0, SEEK_CUR);
  if (fstat(file.get(), &st) == 0 && S_ISREG(st.st_mode) && at >= 0) {
    payload.size = static_cast<uint64_t>(std::max<off_t>(st.st_size - at, 0));
    payload.file = std::move(file);
    return payload;
  }
  auto bytes = read_all(file.get(), room, name, deadline);
  if (!bytes && bytes.error().code == Code::invalid)
    return fail(Code::out_of_range, fmt::format("{}: the {} bytes up to the end of the disk",
                                                bytes.error().message, room));
  if (!bytes) return fail(bytes.error());
  payload.bytes = std::move(*bytes);
  payload.size = payload.bytes.size();
  return payload;
}

// --from, else stdin when the disk was named, else the document's data.
Result<Payload> find_payload(cli::Context& context, const DataOptions& options, uint64_t disk_size,
                             ByteRange& range) {
  const uint64_t room = disk_size - std::min(disk_size, range.offset);
  // Whoever writes to our stdin may take as long as it likes, unless --timeout was given.
  TRY_ASSIGN(const Deadline deadline, context.deadline(UINT64_MAX));
  if (!options.from.empty() && options.from != "-") {
    Fd file(open(options.from.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno("cannot open " + options.from, errno);
    return payload_of(std::move(file), options.from, room, deadline);
  }
  if (!context.has_input() || (options.from == "-" && context.input_from_file()))
    return payload_of(Fd(dup(STDIN_FILENO)), "stdin", room, deadline);
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
  Payload payload;
  TRY_ASSIGN(payload.bytes, base64_decode(get_string(*data, "b64")));
  payload.size = payload.bytes.size();
  return payload;
}

// The next `n` bytes of it, which start at `at`.
Result<std::string_view> piece_of(const Payload& payload, uint64_t at, uint64_t n,
                                  std::string& buffer) {
  if (!payload.file) return std::string_view(payload.bytes).substr(at, n);
  buffer.resize(n);
  for (size_t have = 0; have < n;) {
    const ssize_t got = ::read(payload.file.get(), buffer.data() + have, n - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("cannot read the data", errno);
    if (got == 0) return fail(Code::aborted, "the data became shorter while it was written");
    have += static_cast<size_t>(got);
  }
  return std::string_view(buffer);
}

// Writes all of it; its hash.
Result<std::string> send(Opened& disk, const Payload& payload, uint64_t offset, bool fua) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(),
                                                                      &XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  std::string buffer;
  for (uint64_t at = 0; at < payload.size;) {
    const uint64_t n = std::min<uint64_t>(serve::k_max_host_io, payload.size - at);
    TRY_ASSIGN(const std::string_view piece, piece_of(payload, at, n, buffer));
    XXH3_64bits_update(hash.get(), piece.data(), piece.size());
    TRY(disk.client.write(offset + at, piece, fua));
    at += n;
  }
  return fmt::format("{:016x}", XXH3_64bits_digest(hash.get()));
}

Result<int> write(cli::Context& context, const DataOptions& options) {
  TRY_ASSIGN(Opened disk, open_disk(context, options));
  TRY_ASSIGN(ByteRange range, range_from(options.range, disk.sector_size));
  TRY_ASSIGN(const Payload payload, find_payload(context, options, disk.size, range));
  if (range.length && *range.length != payload.size)
    return fail(Code::usage,
                fmt::format("there are {} bytes to write, not {}", payload.size, *range.length));
  TRY(check_range(disk, range.offset, payload.size));
  const uint64_t tail = (range.offset + payload.size) % disk.sector_size;
  if (options.strict && (tail != 0 || range.offset % disk.sector_size != 0))
    return fail(Code::invalid, fmt::format("{} bytes at {} are not whole sectors of {} (--strict)",
                                           payload.size, range.offset, disk.sector_size));
  TRY_ASSIGN(const std::string hash, send(disk, payload, range.offset, options.fua));
  context.document()["data"] = {{"offset_bytes", range.offset},
                                {"length_bytes", payload.size},
                                {"partial_tail", tail != 0},
                                {"xxh3", hash}};
  TRY(context.emit());
  return 0;
}

// discard and zero.
Result<int> change(cli::Context& context, const DataOptions& options, const char* op) {
  TRY_ASSIGN(Opened disk, open_disk(context, options));
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

Result<int> flush(cli::Context& context, const DataOptions& options) {
  TRY_ASSIGN(Opened disk, open_disk(context, options));
  TRY(disk.client.call({{"op", "flush"}}));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(disk.at.disk, deadline));
  TRY(context.emit());
  return 0;
}

std::shared_ptr<DataOptions> start(cli::Verb& verb) {
  auto options = std::make_shared<DataOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  add_host_key_flag(verb, options->host_key);
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
