// SPDX-License-Identifier: MIT
// Disk servers of their own, in a run directory of the test's own, that are saved and restored as
// the taker of a snapshot does it.
#pragma once

#include <fcntl.h>
#include <fstream>
#include <sys/stat.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "blk/fault/journal.hpp"
#include "env_var.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "serve/snapshot.hpp"

namespace pv::test {

constexpr uint64_t k_snap_size = 1 << 20;

// One saved disk.
struct Saved {
  std::string dir;
  json manifest;
};

struct SnapRig {
  TempDir dir;
  EnvVar run_dir{"PV_RUN_DIR", dir.path("run")};
  std::optional<RunDir> run;
  int numbers = 0;

  SnapRig() { run = *RunDir::open("default"); }
  ~SnapRig() {
    for (const Object& disk : run->list("disk")) static_cast<void>(serve::close_disk(*run, disk));
  }

  static Deadline soon() { return Deadline::in_ms(60'000); }
  std::string fresh(const char* what) { return dir.path(fmt::format("{}{}", what, ++numbers)); }

  // A raw image whose sectors begin with `text`.
  std::string image(char fill, uint64_t size = k_snap_size) {
    const std::string path = fresh("image");
    std::ofstream(path) << std::string(size / 2, fill) << std::string(size / 2, '\0');
    return path;
  }

  Object serve(serve::SourceFlags flags, std::vector<std::string> layers = {},
               const std::function<void(serve::Spec&)>& change = {}) {
    serve::Spec spec;
    REQUIRE(serve::set_source(spec, flags));
    spec.layers = std::move(layers);
    if (change) change(spec);
    const std::string id = fmt::format("d{}", ++numbers);
    auto complete = serve::complete(spec, id);
    INFO((complete ? "" : complete.error().message));
    REQUIRE(complete);
    const Object disk = *run->create("disk", "", id);
    auto started = serve::start_server(disk, spec, soon());
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
    return disk;
  }
  Object serve_image(const std::string& path, std::vector<std::string> layers = {}) {
    serve::SourceFlags flags;
    flags.image = path;
    return serve(flags, std::move(layers));
  }
  void close(const Object& disk) { REQUIRE(serve::close_disk(*run, disk)); }

  serve::DiskClient client(const Object& disk) {
    auto connected = serve::DiskClient::connect(disk, soon());
    REQUIRE(connected);
    return std::move(*connected);
  }
  json call(const Object& disk, const json& request) {
    auto reply = client(disk).call(request);
    INFO(request << " " << (reply ? "" : reply.error().message));
    REQUIRE(reply);
    return *reply;
  }
  Code refused(const Object& disk, const json& request) {
    auto reply = client(disk).call(request);
    REQUIRE_FALSE(reply);
    return reply.error().code;
  }
  void write(const Object& disk, uint64_t offset, char fill, uint64_t length = 4096) {
    call(disk, {{"op", "write"},
                {"offset_bytes", offset},
                {"length_bytes", length},
                {"b64", base64_encode(std::string(length, fill))}});
  }
  std::string read(const Object& disk, uint64_t offset, uint64_t length = 4096) {
    return *base64_decode(get_string(
        call(disk, {{"op", "read"}, {"offset_bytes", offset}, {"length_bytes", length}}), "b64"));
  }
  // 'a' for 4096 times 'a', '?' for anything mixed.
  char at(const Object& disk, uint64_t offset) {
    const std::string bytes = read(disk, offset);
    return bytes == std::string(4096, bytes[0]) ? bytes[0] : '?';
  }
  json all_of(const Object& disk) { return call(disk, {{"op", "stats"}})["stats"]["layers"]; }

  Result<Saved> try_save(const Object& disk, bool closing = false) {
    Saved saved;
    saved.dir = fresh("snap");
    REQUIRE(make_dir(saved.dir));
    auto taker = client(disk);
    TRY(taker.call({{"op", "snap.prepare"}}));
    TRY_ASSIGN(saved.manifest, taker.call({{"op", "snap.save"},
                                           {"dir", saved.dir},
                                           {"final", closing},
                                           {"pending_flush", "drop"}}));
    if (closing) close(disk);
    // As it comes out of a file.
    saved.manifest = *parse_json(to_line(saved.manifest));
    return saved;
  }
  Saved save(const Object& disk, bool closing = false) {
    auto saved = try_save(disk, closing);
    INFO((saved ? "" : saved.error().message));
    REQUIRE(saved);
    return *saved;
  }
  Result<Object> try_restore(const Saved& saved, bool in_place = false) {
    const Object disk = *run->create("disk", "", fmt::format("r{}", ++numbers));
    auto restored = serve::restore_disk(disk, saved.manifest, saved.dir, soon(), {in_place});
    if (restored) return disk;
    run->remove(disk);
    return fail(restored.error());
  }
  Object restore(const Saved& saved, bool in_place = false) {
    auto disk = try_restore(saved, in_place);
    INFO((disk ? "" : disk.error().message));
    REQUIRE(disk);
    return *disk;
  }
  Code restore_refused(const Saved& saved, bool in_place = false) {
    auto disk = try_restore(saved, in_place);
    REQUIRE_FALSE(disk);
    INFO(disk.error().message);
    CHECK(disk.error().message.find('\n') == std::string::npos);
    return disk.error().code;
  }
  json journal(const Object& disk) {
    json events = *blk::read_journal(call(disk, {{"op", "fault.journal"}}), 0, 100'000);
    for (json& event : events) event.erase("t_ns");
    return events;
  }
};

}  // namespace pv::test
