// SPDX-License-Identifier: MIT
#include "guest/decompress.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <lz4.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/process.hpp"

namespace pv::guest {
namespace {

// The legacy frame has no block size in its header: every block but the last unpacks to this
// (lz4_Frame_format.md, "Legacy frame").
constexpr size_t k_lz4_block = size_t{8} << 20;

struct Magic {
  Compression kind;
  std::string_view bytes;
};
constexpr Magic k_magics[] = {
    {Compression::lz4_legacy, std::string_view("\x02\x21\x4c\x18", 4)},
    {Compression::gzip, std::string_view("\x1f\x8b\x08", 3)},
    {Compression::xz, std::string_view("\xfd"
                                       "7zXZ\0",
                                       6)},
    {Compression::zstd, std::string_view("\x28\xb5\x2f\xfd", 4)},
};

tl::unexpected<Error> too_large(size_t max_bytes) {
  return fail(Code::invalid, fmt::format("unpacks to more than {} bytes", max_bytes));
}

uint32_t le32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

Result<std::string> unpack_lz4(std::string_view bytes, size_t max_bytes) {
  std::string out;
  bytes.remove_prefix(4);
  while (bytes.size() >= 4) {
    const size_t packed = le32(bytes);
    bytes.remove_prefix(4);
    if (packed == 0 || packed > static_cast<size_t>(LZ4_compressBound(k_lz4_block)))
      return fail(Code::invalid, "LZ4: bad block size");
    if (packed > bytes.size()) return fail(Code::invalid, "LZ4: cut off");
    const size_t before = out.size();
    out.resize(before + k_lz4_block);
    const int n = LZ4_decompress_safe(bytes.data(), out.data() + before, static_cast<int>(packed),
                                      static_cast<int>(k_lz4_block));
    if (n < 0) return fail(Code::invalid, "LZ4: broken block");
    out.resize(before + static_cast<size_t>(n));
    if (out.size() > max_bytes) return too_large(max_bytes);
    bytes.remove_prefix(packed);
  }
  if (!bytes.empty()) return fail(Code::invalid, "LZ4: cut off");
  return out;
}

Result<std::string> unpack_gzip(std::string_view bytes, size_t max_bytes) {
  z_stream stream{};
  constexpr int k_gzip_window = 15 + 16;  // zlib.h: +16 asks for a gzip header
  if (inflateInit2(&stream, k_gzip_window) != Z_OK) return fail(Code::system, "zlib: no memory");
  DEFER(inflateEnd(&stream));
  if (bytes.size() > UINT32_MAX) return fail(Code::invalid, "gzip: too large");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  std::string out;
  constexpr size_t k_step = size_t{1} << 20;
  while (true) {
    const size_t before = out.size();
    out.resize(before + k_step);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + before);
    stream.avail_out = static_cast<uInt>(k_step);
    const int status = inflate(&stream, Z_NO_FLUSH);
    out.resize(before + (k_step - stream.avail_out));
    if (out.size() > max_bytes) return too_large(max_bytes);
    if (status == Z_STREAM_END) return out;
    if (status != Z_OK || (stream.avail_in == 0 && stream.avail_out > 0))
      return fail(Code::invalid, "gzip: broken or cut off");
  }
}

// A file without a name: it is gone with its descriptor.
Result<Fd> memory_file(std::string_view content) {
  Fd fd(memfd_create("pv-unpack", MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create", errno);
  TRY(write_all(fd.get(), content));
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return fail_errno("lseek", errno);
  return fd;
}

Result<std::string> unpack_with(const char* program, std::string_view bytes, size_t max_bytes,
                                const Deadline& deadline) {
  TRY_ASSIGN(const Fd in, memory_file(bytes));
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd out(pipe_fds[0]), out_end(pipe_fds[1]);
  SpawnOptions options;
  options.argv = {program, "-dc"};
  options.stdin_fd = in.get();
  options.stdout_fd = out_end.get();
  TRY_ASSIGN(Child child, spawn(options));
  out_end.reset();
  // The bound keeps the reading finite; a child that stalls is killed with its owner.
  TRY_ASSIGN(std::string content, read_all(out.get(), max_bytes, program));
  TRY_ASSIGN(const ExitStatus status, child.wait(deadline));
  if (status.code != 0 || status.signal != 0)
    return fail(Code::invalid, fmt::format("{}: {}", program, status.describe()));
  return content;
}

}  // namespace

Compression detect_compression(std::string_view bytes) {
  for (const Magic& magic : k_magics)
    if (bytes.substr(0, magic.bytes.size()) == magic.bytes) return magic.kind;
  return Compression::none;
}

Result<std::string> decompress(std::string_view bytes, size_t max_bytes, const Deadline& deadline) {
  switch (detect_compression(bytes)) {
    case Compression::lz4_legacy:
      return unpack_lz4(bytes, max_bytes);
    case Compression::gzip:
      return unpack_gzip(bytes, max_bytes);
    case Compression::xz:
      return unpack_with("xz", bytes, max_bytes, deadline);
    case Compression::zstd:
      return unpack_with("zstd", bytes, max_bytes, deadline);
    case Compression::none:
      break;
  }
  return std::string(bytes);
}

}  // namespace pv::guest
