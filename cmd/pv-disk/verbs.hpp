// SPDX-License-Identifier: MIT
// The verbs of pv-disk, and what several of them share.
#pragma once

#include "base/json.hpp"
#include "cli/command.hpp"
#include "serve/spec.hpp"
#include "target/disk_target.hpp"

namespace pv::diskcmd {

void build_create(cli::Verb& verb);
void build_attach(cli::Verb& verb);
void build_detach(cli::Verb& verb);
void build_serve(cli::Verb& verb);
void build_close(cli::Verb& verb);
void build_info(cli::Verb& verb);
void build_list(cli::Verb& verb);
void build_layers(cli::Verb& verb);
void build_size(cli::Verb& verb);
void build_stats(cli::Verb& verb);
void build_read(cli::Verb& verb);
void build_write(cli::Verb& verb);
void build_flush(cli::Verb& verb);
void build_discard(cli::Verb& verb);
void build_zero(cli::Verb& verb);
void build_map(cli::Verb& verb);
void build_io(cli::Verb& verb);
void build_resize(cli::Verb& verb);
void build_wait_resize(cli::Verb& verb);
void build_eject(cli::Verb& verb);
void build_reserve(cli::Verb& verb);
void build_tune(cli::Verb& verb);

// What `attach` and `serve` have in common: the source, the geometry, the layers.
struct SpecFlags {
  serve::SourceFlags source;
  std::string sector_size, physical_sector_size, serial, uuid, reconnect;
  std::string transport = "nbd";
  std::vector<std::string> layers;
  bool read_only = false;
  bool no_fault = false;
  bool direct = false;
  bool restart = false;
};
void add_spec_flags(cli::Verb& verb, SpecFlags& flags);
// The spec, still without what depends on the disk's id (serve::complete); with no source flag, the
// source of the input document's disk.
Result<serve::Spec> spec_from(cli::Context& context, const SpecFlags& flags);

// --transport auto: `attach` knows the VM; a disk without one is served over NBD.
constexpr const char* k_auto_transport = "auto";

// --host-key, of the verbs that read and write.
void add_host_key_flag(cli::Verb& verb, std::string& host_key);
Result<> check_host_key(const std::string& host_key);

// A range of bytes, given in sectors or in bytes.
struct RangeFlags {
  std::string sector, count, offset, length;
};
void add_range_flags(cli::Verb& verb, RangeFlags& flags);
struct ByteRange {
  uint64_t offset = 0;
  std::optional<uint64_t> length;
};
Result<ByteRange> range_from(const RangeFlags& flags, uint64_t sector_size);

}  // namespace pv::diskcmd
