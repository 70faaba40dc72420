// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

Result<uint32_t> parse_sector_size(std::string_view what, const std::string& text) {
  TRY_ASSIGN(const uint64_t size, parse_size(text));
  if (size > 65536) return fail(Code::usage, fmt::format("{} '{}' is too large", what, text));
  return static_cast<uint32_t>(size);
}

// A disk that was described and is not served yet may have layers; those of the command line stand
// further out.
Result<> add_layers(serve::Spec& spec, const json& disk) {
  const json* layers = find(disk, "layers");
  if (layers == nullptr) return {};
  if (!layers->is_array()) return fail(Code::bad_document, "disk.layers is no list");
  for (const json& layer : *layers) {
    if (!layer.is_string()) return fail(Code::bad_document, "disk.layers holds something else");
    spec.layers.push_back(layer.get<std::string>());
  }
  spec.read_only = get_bool(disk, "read_only");
  return {};
}

// Whether it is by vhost-user; auto is not, until somebody knows better.
Result<bool> parse_transport(const std::string& text) {
  for (const bool vhost_user : {false, true})
    if (text == serve::transport_name(vhost_user)) return vhost_user;
  if (text == k_auto_transport) return false;
  return fail(Code::usage,
              fmt::format("--transport '{}' is none of nbd, vhost-user and auto", printable(text)));
}

}  // namespace

void add_spec_flags(cli::Verb& verb, SpecFlags& flags) {
  verb.option("--image", flags.source.image, "PATH",
              "Source: an image that exists, a block device, or a URI");
  verb.option("--scratch", flags.source.scratch, "SIZE", "Source: a blank disk, gone when closed");
  verb.option("--template", flags.source.template_path, "PATH",
              "Source: a copy of this image, gone when closed");
  verb.option("--memory", flags.source.memory, "SIZE", "Source: a blank disk in memory");
  verb.option("--blockdev", flags.source.blockdev, "JSON",
              "Source: an object that qemu-storage-daemon opens as it is");
  verb.option("--format", flags.source.format, "NAME",
              "Format of the image (default: by its extension, where the content agrees)");
  verb.option("--key-file", flags.source.key_file, "PATH",
              "The passphrase of an encrypted image: the whole file, a newline included");
  verb.flag("--direct", flags.direct, "Past the page cache (O_DIRECT)");
  verb.option("--reconnect", flags.reconnect, "DURATION",
              "How long requests wait for a back end that is gone (default: 5s)");
  verb.option("--layer", flags.layers, "NAME:KEY=VALUE",
              "Put a layer on the disk, outermost first (can be repeated)");
  verb.option("--sector-size", flags.sector_size, "BYTES", "Logical sector size (default: 512)");
  verb.option("--physical-sector-size", flags.physical_sector_size, "BYTES",
              "Physical sector size (default: the logical one)");
  verb.option("--serial", flags.serial, "TEXT", "Serial number, at most 20 characters");
  verb.option("--uuid", flags.uuid, "ID",
              "The disk's own id of 16 bytes: a UUID, or 32 hex digits");
  verb.option("--transport", flags.transport, "NAME",
              "How a VM takes it: nbd, vhost-user or auto (default: nbd)");
  verb.flag("--restart", flags.restart, "Start the disk's server again when it dies");
  verb.flag("--no-fault", flags.no_fault, "Serve without a fault layer: pv-fault refuses the disk");
  verb.flag("--read-only", flags.read_only, "Refuse every change");
}

Result<serve::Spec> spec_from(cli::Context& context, const SpecFlags& flags) {
  serve::Spec spec;
  spec.layers = flags.layers;
  if (flags.source.any()) {
    TRY(serve::set_source(spec, flags.source));
  } else {
    // A document may carry the source: `pv-disk create t.img | pv-disk attach v`. Where there is
    // none, the message is about the flags.
    const auto document = context.input();
    if (!document && context.has_input()) return fail(document.error());
    const json* disk = document ? find(**document, "disk") : nullptr;
    const json* source = disk ? find(*disk, "source") : nullptr;
    if (source)
      TRY(serve::set_source(spec, *source));
    else
      TRY(serve::set_source(spec, flags.source));
    if (source && get_string(*disk, "state") == "created") TRY(add_layers(spec, *disk));
  }
  if (!flags.sector_size.empty()) {
    TRY_ASSIGN(spec.sector_size, parse_sector_size("--sector-size", flags.sector_size));
  }
  if (!flags.physical_sector_size.empty()) {
    TRY_ASSIGN(spec.physical_sector_size,
               parse_sector_size("--physical-sector-size", flags.physical_sector_size));
  }
  if (!flags.uuid.empty()) {
    TRY_ASSIGN(spec.id, serve::parse_disk_id(flags.uuid));
  }
  if (!flags.reconnect.empty()) {
    TRY_ASSIGN(spec.reconnect_ns, parse_duration(flags.reconnect));
  }
  spec.serial = flags.serial;
  TRY_ASSIGN(spec.vhost_user, parse_transport(flags.transport));
  spec.restart = flags.restart;
  spec.direct = flags.direct;
  spec.read_only = spec.read_only || flags.read_only;
  spec.no_fault = flags.no_fault;
  return spec;
}

void add_host_key_flag(cli::Verb& verb, std::string& host_key) {
  verb.option("--host-key", host_key, "NAME", "Ask as this host, for reservations");
}

Result<> check_host_key(const std::string& host_key) {
  return host_key.empty() ? Result<>() : check_name("--host-key", host_key);
}

void add_range_flags(cli::Verb& verb, RangeFlags& flags) {
  verb.option("--sector", flags.sector, "N", "First sector");
  verb.option("--count", flags.count, "N", "Number of sectors");
  verb.option("--offset", flags.offset, "SIZE", "First byte, instead of --sector");
  verb.option("--length", flags.length, "SIZE", "Number of bytes, instead of --count");
}

Result<ByteRange> range_from(const RangeFlags& flags, uint64_t sector_size) {
  ByteRange range;
  if (!flags.sector.empty() && !flags.offset.empty())
    return fail(Code::usage, "--sector and --offset exclude each other");
  if (!flags.count.empty() && !flags.length.empty())
    return fail(Code::usage, "--count and --length exclude each other");
  const auto sectors = [&](std::string_view what, const std::string& text) -> Result<uint64_t> {
    TRY_ASSIGN(const uint64_t n, parse_count(what, text));
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(n, sector_size, &bytes))
      return fail(Code::out_of_range, fmt::format("{} {} is past the end of any disk", what, n));
    return bytes;
  };
  if (!flags.sector.empty()) {
    TRY_ASSIGN(range.offset, sectors("--sector", flags.sector));
  }
  if (!flags.offset.empty()) {
    TRY_ASSIGN(range.offset, parse_size(flags.offset));
  }
  if (!flags.count.empty()) {
    TRY_ASSIGN(range.length, sectors("--count", flags.count));
  }
  if (!flags.length.empty()) {
    TRY_ASSIGN(range.length, parse_size(flags.length));
  }
  return range;
}

}  // namespace pv::diskcmd
