// SPDX-License-Identifier: MIT
// If this fails, a snapshot that is damaged or stands on something else becomes a disk all the
// same, or a disk does not survive the taker of its snapshot.
#include <fcntl.h>
#include <time.h>

#include "snap_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

void patch(const std::string& path, size_t at, char byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
  REQUIRE(file.good());
}

Saved saved_cache(SnapRig& rig) {
  serve::SourceFlags flags;
  flags.memory = "1M";
  const Object disk = rig.serve(flags, {"cache"});
  rig.write(disk, 0, 'v');
  const Saved saved = rig.save(disk);
  rig.close(disk);
  rig.close(rig.restore(saved));  // it is good
  return saved;
}

TEST_CASE("damaged files of a snapshot are refused", "[snapshot]") {
  SnapRig rig;
  Saved saved = saved_cache(rig);
  const std::string state = saved.dir + "/state.json", records = saved.dir + "/state.bin";
  SECTION("a byte of a record") {
    patch(records, 100, 'x');
  }
  SECTION("the number of a block") {
    patch(records, 16, 7);
  }
  SECTION("the magic of the records") {
    patch(records, 0, 'x');
  }
  SECTION("a byte of the state") {
    patch(state, 5, ' ');
  }
  SECTION("records cut short") {
    REQUIRE(truncate(records.c_str(), 1000) == 0);
  }
  SECTION("records with something behind them") {
    std::ofstream(records, std::ios::app) << "x";
  }
  SECTION("data cut short") {
    REQUIRE(truncate((saved.dir + "/data").c_str(), 4096) == 0);
  }
  SECTION("no data") {
    REQUIRE(unlink((saved.dir + "/data").c_str()) == 0);
  }
  SECTION("no records") {
    REQUIRE(unlink(records.c_str()) == 0);
  }
  SECTION("no state") {
    REQUIRE(unlink(state.c_str()) == 0);
  }
  SECTION("a link in place of the data") {
    REQUIRE(rename((saved.dir + "/data").c_str(), (saved.dir + "/other").c_str()) == 0);
    REQUIRE(symlink("other", (saved.dir + "/data").c_str()) == 0);
  }
  CHECK(rig.restore_refused(saved) == Code::snapshot_corrupt);
  CHECK(rig.run->list("disk").empty());
}

TEST_CASE("a manifest that no server has written is refused", "[snapshot]") {
  SnapRig rig;
  const Saved good = saved_cache(rig);
  Saved saved = good;
  json& manifest = saved.manifest;
  SECTION("no files") {
    manifest.erase("files");
  }
  SECTION("a way out of the folder") {
    manifest["files"][0]["name"] = "../state.json";
  }
  SECTION("a file twice named otherwise") {
    manifest["files"][2]["name"] = "overlay";
  }
  SECTION("no content") {
    manifest.erase("content");
  }
  SECTION("another kind of content") {
    manifest["content"]["kind"] = "overlay";
  }
  SECTION("fewer layers above") {
    manifest["content"]["above"] = 1;
  }
  SECTION("no disk") {
    manifest.erase("spec");
  }
  SECTION("no source") {
    manifest["spec"].erase("source");
  }
  SECTION("an unknown layer") {
    manifest["spec"]["layers"][1] = "magic";
  }
  SECTION("a layer that is no text") {
    manifest["spec"]["layers"][1] = 7;
  }
  SECTION("layers in another order") {
    manifest["spec"]["layers"] = {manifest["spec"]["layers"][1], manifest["spec"]["layers"][0]};
  }
  SECTION("a layer less") {
    manifest["spec"]["layers"].erase(1);
    manifest["content"]["above"] = 1;
  }
  SECTION("an odd sector size") {
    manifest["spec"]["sector_size"] = 513;
  }
  SECTION("a serial that is too long") {
    manifest["spec"]["serial"] = std::string(30, 's');
  }
  CHECK(rig.restore_refused(saved) == Code::snapshot_corrupt);
}

TEST_CASE("a snapshot of another version is not ours to read", "[snapshot]") {
  SnapRig rig;
  Saved saved = saved_cache(rig);
  saved.manifest["v"] = 2;
  CHECK(rig.restore_refused(saved) == Code::incompatible);
}

TEST_CASE("an overlay does not stand on what has changed", "[snapshot]") {
  SnapRig rig;
  const std::string base = rig.image('b');
  const Object disk = rig.serve_image(base, {"cow"});
  rig.write(disk, 0, 'x');
  Saved saved = rig.save(disk);
  rig.close(disk);
  SECTION("written") {
    patch(base, 100, 'x');
  }
  SECTION("grown") {
    REQUIRE(truncate(base.c_str(), 2 * k_snap_size) == 0);
  }
  SECTION("gone") {
    REQUIRE(unlink(base.c_str()) == 0);
  }
  SECTION("replaced") {
    struct stat st {};
    REQUIRE(stat(base.c_str(), &st) == 0);
    const std::string other = rig.image('c');
    REQUIRE(rename(other.c_str(), base.c_str()) == 0);
    const timespec times[2] = {st.st_atim, st.st_mtim};
    REQUIRE(utimensat(AT_FDCWD, base.c_str(), times, 0) == 0);
  }
  CHECK(rig.restore_refused(saved) == Code::incompatible);
}

TEST_CASE("a damaged overlay is refused", "[snapshot]") {
  SnapRig rig;
  const Object disk = rig.serve_image(rig.image('b'), {"cow"});
  rig.write(disk, 0, 'x');
  const Saved saved = rig.save(disk);
  patch(saved.dir + "/overlay", 64 << 10 | 20, 'x');  // the map page
  patch(saved.dir + "/overlay", (64 << 10) + 4096 + 20, 'x');
  CHECK(rig.restore_refused(saved) == Code::invalid);
}

TEST_CASE("a disk goes on when the taker of its snapshot is gone", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.memory = "64M";
  const Object disk = rig.serve(flags, {"cache"});
  for (uint64_t at = 0; at < 8 << 20; at += 1 << 20) rig.write(disk, at, 'd', 1 << 20);
  const std::string dir = rig.fresh("snap");
  REQUIRE(make_dir(dir));
  {
    auto taker = rig.client(disk);
    REQUIRE(taker.call({{"op", "snap.prepare"}}));
    CHECK(rig.refused(disk, {{"op", "snap.prepare"}}) == Code::wrong_state);
    CHECK(rig.refused(disk, {{"op", "resize"}, {"size_bytes", 128 << 20}}) == Code::wrong_state);
    CHECK(rig.refused(disk, {{"op", "power.freeze"}}) == Code::wrong_state);
    CHECK(rig.refused(disk, {{"op", "snap.save"}, {"dir", dir}}) == Code::wrong_state);
    SECTION("in the window") {}
    SECTION("while it is saved") {
      const Fd fd = taker.release();
      const std::string line = to_line({{"op", "snap.save"}, {"dir", dir}}) + "\n";
      REQUIRE(write_all(fd.get(), line));
      sleep_ns(k_ns_per_ms);
    }
  }
  const Deadline deadline = SnapRig::soon();
  while (!rig.client(disk).call({{"op", "snap.prepare"}}) && !deadline.passed())
    sleep_ns(k_ns_per_ms);
  rig.write(disk, 0, 'g');
  CHECK(rig.at(disk, 0) == 'g');
  CHECK(rig.at(disk, 1 << 20) == 'd');
  rig.close(disk);
}

TEST_CASE("a folder that is none of ours, or not empty, is refused, and the disk goes on",
          "[snapshot]") {
  SnapRig rig;
  const Object disk = rig.serve_image(rig.image('i'));
  const std::string dir = rig.fresh("snap");
  const auto save = [&](const std::string& where) {
    auto taker = rig.client(disk);
    REQUIRE(taker.call({{"op", "snap.prepare"}}));
    auto reply = taker.call({{"op", "snap.save"}, {"dir", where}});
    REQUIRE_FALSE(reply);
    return reply.error().code;
  };
  CHECK(save(dir) == Code::system);
  CHECK(save("snap") == Code::invalid);
  std::ofstream(dir) << "a file";
  CHECK(save(dir) == Code::invalid);
  REQUIRE(unlink(dir.c_str()) == 0);
  REQUIRE(make_dir(dir));
  std::ofstream(dir + "/data") << "something";
  CHECK(save(dir) == Code::invalid);
  CHECK(*read_file(dir + "/data", 100) == "something");
  CHECK(rig.at(disk, 0) == 'i');
}

TEST_CASE("a disk with requests that a rule holds is not saved", "[snapshot]") {
  SnapRig rig;
  const Object disk = rig.serve_image(rig.image('i'));
  rig.call(disk, {{"op", "fault.add"},
                  {"rule", {{"match", {{"op", {"read"}}}}, {"do", {{"kind", "stall"}}}}}});
  auto reader = rig.client(disk);
  const Fd fd = reader.release();
  REQUIRE(write_all(fd.get(),
                    to_line({{"op", "read"}, {"offset_bytes", 0}, {"length_bytes", 512}}) + "\n"));
  const Deadline deadline = SnapRig::soon();
  while (rig.call(disk, {{"op", "fault.held"}})["held"].empty() && !deadline.passed())
    sleep_ns(k_ns_per_ms);
  const auto refused = rig.client(disk).call({{"op", "snap.prepare"}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::wrong_state);
  REQUIRE(refused.error().extra);
  CHECK((*refused.error().extra)["requests"][0]["op"] == "read");
  rig.call(disk, {{"op", "fault.release"}});
  CHECK(rig.client(disk).call({{"op", "snap.prepare"}}));
}

}  // namespace
