// SPDX-License-Identifier: MIT
// If this fails, a disk out of a snapshot is not the disk that it was made of, or the snapshot is
// changed by somebody.
#include "snap_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

// What a restored disk must be like, and that neither disk sees the other's changes.
void check_restored(SnapRig& rig, const Object& disk, const std::string& kind,
                    const std::string& opened_with = "") {
  INFO(opened_with);
  rig.write(disk, 0, 'x');
  rig.write(disk, 8192, 'y');
  const std::string end = rig.read(disk, k_snap_size - 4096);
  const Saved saved = rig.save(disk);
  CHECK(saved.manifest["content"]["kind"] == kind);
  rig.write(disk, 0, 'z');  // the disk goes on
  const Object one = rig.restore(saved), two = rig.restore(saved);
  for (const Object& restored : {one, two}) {
    CHECK(rig.at(restored, 0) == 'x');
    CHECK(rig.at(restored, 8192) == 'y');
    CHECK(rig.read(restored, k_snap_size - 4096) == end);
  }
  rig.write(one, 0, 'o');
  CHECK(rig.at(two, 0) == 'x');
  CHECK(rig.at(disk, 0) == 'z');
  const json before = rig.call(disk, {{"op", "info"}})["disk"];
  const json after = rig.call(one, {{"op", "info"}})["disk"];
  for (const char* key : {"size_bytes", "sector_size", "physical_sector_size", "serial", "uuid",
                          "host_key", "read_only", "fua"})
    CHECK(before[key] == after[key]);
  // A disk that was restored is saved like any other, and so on.
  rig.write(one, 4096, '2');
  const Saved second = rig.save(one);
  CHECK(second.manifest["content"]["kind"] == "overlay");
  const Object nested = rig.restore(second);
  rig.write(nested, 12'288, '3');
  const Object deep = rig.restore(rig.save(nested));
  CHECK(rig.at(deep, 0) == 'o');
  CHECK(rig.at(deep, 4096) == '2');
  CHECK(rig.at(deep, 8192) == 'y');
  CHECK(rig.at(deep, 12'288) == '3');
  CHECK(rig.at(rig.restore(saved), 0) == 'x');
}

TEST_CASE("an image is saved and restored, to any depth", "[snapshot]") {
  SnapRig rig;
  const Object disk = rig.serve_image(rig.image('i'));
  CHECK(rig.at(disk, 4096) == 'i');
  check_restored(rig, disk, "data");
}

TEST_CASE("scratch, memory and templates are saved whole", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  SECTION("scratch") {
    flags.scratch = "1M";
  }
  SECTION("memory") {
    flags.memory = "1M";
  }
  SECTION("template") {
    flags.template_path = rig.image('t');
  }
  check_restored(rig, rig.serve(flags), "data");
}

TEST_CASE("a qcow2 is saved as the raw disk that it holds", "[snapshot]") {
  SnapRig rig;
  const std::string path = rig.fresh("q") + ".qcow2";
  REQUIRE(run_program({"qemu-img", "create", "-q", "-f", "qcow2", path, "1M"}, SnapRig::soon()));
  check_restored(rig, rig.serve_image(path), "data");
}

TEST_CASE("layers stay layers above what is saved", "[snapshot]") {
  SnapRig rig;
  const std::string key = rig.fresh("key");
  std::ofstream(key) << std::string(32, 'k') << std::string(32, 'e');
  serve::SourceFlags flags;
  flags.memory = "1M";
  const auto layers = GENERATE_COPY(std::vector<std::string>{"crypt:key-file=" + key},
                                    std::vector<std::string>{"stats", "delay:ms=0", "cache"},
                                    std::vector<std::string>{"reserve", "readcache"});
  const Object disk = rig.serve(flags, layers);
  check_restored(rig, disk, "data", layers[0]);
}

TEST_CASE("a stripe becomes one image", "[snapshot]") {
  SnapRig rig;
  const std::string one = rig.image('1'), two = rig.image('2');
  const Object disk = rig.serve_image(one, {"stats", "stripe:with=" + two + ",chunk=4096"});
  rig.write(disk, 4096, 'w');
  const Saved saved = rig.save(disk);
  CHECK(saved.manifest["size_bytes"] == 2 * k_snap_size);
  const Object restored = rig.restore(saved);
  CHECK(rig.at(restored, 0) == '1');
  CHECK(rig.at(restored, 4096) == 'w');
  CHECK(rig.at(restored, 3 * 4096) == '2');
  CHECK(rig.restore_refused(saved, true) == Code::unsupported);
}

TEST_CASE("of an overlay only the overlay is saved", "[snapshot]") {
  SnapRig rig;
  const std::string base = rig.image('b', k_snap_size);
  std::vector<std::string> layers;
  SECTION("with a name") {
    layers = {"cow:file=" + rig.fresh("overlay")};
  }
  SECTION("that goes with the server") {
    layers = {"cow"};
  }
  SECTION("below other layers, with large blocks") {
    layers = {"stats", "cow:block=64k"};
  }
  const Object disk = rig.serve_image(base, layers);
  CHECK(rig.at(disk, 4096) == 'b');
  check_restored(rig, disk, "overlay");
  const Saved saved = rig.save(disk);
  CHECK_FALSE(std::ifstream(saved.dir + "/data"));
  CHECK(saved.manifest["content"]["base"]["files"][0]["path"] == base);
}

TEST_CASE("overlays of overlays are saved with what is between them", "[snapshot]") {
  SnapRig rig;
  const std::string base = rig.image('b'), lower = rig.fresh("lower");
  Object disk = rig.serve_image(base, {"cow:file=" + lower});
  rig.write(disk, 0, 'l');
  rig.close(disk);
  disk = rig.serve_image(base, {"cow", "stats", "cow:file=" + lower});
  rig.write(disk, 4096, 'u');
  const Object restored = rig.restore(rig.save(disk));
  CHECK(rig.at(restored, 0) == 'l');
  CHECK(rig.at(restored, 4096) == 'u');
  CHECK(rig.at(restored, 8192) == 'b');
}

TEST_CASE("an overlay whose base goes with its disk is saved whole", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.template_path = rig.image('t');
  const Object disk = rig.serve(flags, {"cow"});
  rig.write(disk, 0, 'x');
  const Saved saved = rig.save(disk);
  CHECK(saved.manifest["content"]["kind"] == "data");
  rig.close(disk);
  const Object restored = rig.restore(saved);
  CHECK(rig.at(restored, 0) == 'x');
  CHECK(rig.at(restored, 4096) == 't');
}

TEST_CASE("a disk that is closed gives its files away", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.scratch = "1M";
  const Object disk = rig.serve(flags, {"cache"});
  rig.write(disk, 0, 's');
  rig.call(disk, {{"op", "flush"}});
  rig.write(disk, 0, 'v');  // volatile: what is closed must not write it into the snapshot
  const Saved saved = rig.save(disk, true);
  const Object restored = rig.restore(saved);
  CHECK(rig.at(restored, 0) == 'v');
  rig.call(restored, {{"op", "cache.drop"}, {"survivors", "none"}});
  CHECK(rig.at(restored, 0) == 's');
}

TEST_CASE("an overlay that goes with its server becomes the snapshot's", "[snapshot]") {
  SnapRig rig;
  const Object disk = [&] {
    const EnvVar temporary("TMPDIR", rig.dir.path());
    return rig.serve_image(rig.image('b'), {"cow"});
  }();
  rig.write(disk, 4096, 'o');
  rig.call(disk, {{"op", "zero"}, {"offset_bytes", 8192}, {"length_bytes", 4096}});
  const Saved saved = rig.save(disk, true);
  const Object one = rig.restore(saved), two = rig.restore(saved);
  for (const Object& restored : {one, two}) {
    CHECK(rig.at(restored, 0) == 'b');
    CHECK(rig.at(restored, 4096) == 'o');
    CHECK(rig.at(restored, 8192) == '\0');
  }
}

TEST_CASE("a final save whose taker dies leaves disk and snapshot apart", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.scratch = "1M";
  const Object disk = rig.serve(flags);
  rig.write(disk, 0, 's');
  Saved saved;
  saved.dir = rig.fresh("snap");
  REQUIRE(make_dir(saved.dir));
  {
    auto taker = rig.client(disk);
    REQUIRE(taker.call({{"op", "snap.prepare"}}));
    auto reply = taker.call({{"op", "snap.save"}, {"dir", saved.dir}, {"final", true}});
    REQUIRE(reply);
    saved.manifest = *parse_json(to_line(*reply));
    struct stat st {};
    REQUIRE(stat((saved.dir + "/data").c_str(), &st) == 0);
    CHECK(st.st_nlink == 2);
  }
  rig.write(disk, 0, 'g');
  CHECK(rig.at(disk, 0) == 'g');
  CHECK(rig.at(rig.restore(saved), 0) == 's');
}

TEST_CASE("content goes back to where it came from", "[snapshot]") {
  SnapRig rig;
  const std::string image = rig.image('i'), overlay = rig.fresh("overlay");
  std::vector<std::string> layers;
  SECTION("an image") {}
  SECTION("an overlay") {
    layers = {"cow:file=" + overlay};
  }
  Object disk = rig.serve_image(image, layers);
  rig.write(disk, 0, 'x');
  const Saved saved = rig.save(disk);
  rig.write(disk, 0, 'z');
  CHECK(rig.restore_refused(saved, true) == Code::in_use);
  rig.close(disk);
  disk = rig.restore(saved, true);
  CHECK(rig.at(disk, 0) == 'x');
  CHECK(rig.at(disk, 4096) == 'i');
  rig.write(disk, 4096, 'w');
  rig.close(disk);
  disk = rig.serve_image(image, layers);
  CHECK(rig.at(disk, 0) == 'x');
  CHECK(rig.at(disk, 4096) == 'w');
}

TEST_CASE("several disks are begun, and then waited for", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.memory = "64M";
  const Object disk = rig.serve(flags, {"cache"});
  for (uint64_t at = 0; at < 16 << 20; at += 1 << 20) rig.write(disk, at, 'w', 1 << 20);
  rig.call(disk, {{"op", "flush"}});
  const Saved saved = rig.save(disk);
  const uint64_t began_ns = system_clock().now_ns();
  std::vector<serve::StartingServer> starting;
  for (const char* id : {"vda", "vdb", "vdc"}) {
    auto begun = serve::begin_restore(*rig.run->create("disk", "", id), saved.manifest, saved.dir);
    REQUIRE(begun);
    starting.push_back(std::move(*begun));
  }
  for (const serve::StartingServer& server : starting) {
    const auto state = server.wait(SnapRig::soon());
    REQUIRE(state);
    CHECK((*state)["size_bytes"] == 64 << 20);
  }
  const uint64_t took_ns = system_clock().now_ns() - began_ns;
  INFO("three disks in " << took_ns / 1000 << " us");
  CHECK(took_ns < 20 * k_ns_per_s);  // a few milliseconds on an idle machine
  CHECK(rig.at(*rig.run->find("disk", "", "vdc"), 5 << 20) == 'w');
}

TEST_CASE("memory has no place to go back to", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.memory = "1M";
  CHECK(rig.restore_refused(rig.save(rig.serve(flags)), true) == Code::unsupported);
}

TEST_CASE("a read-only disk and a disc stay what they are", "[snapshot]") {
  SnapRig rig;
  serve::SourceFlags flags;
  flags.image = rig.image('r');
  const Object disk = rig.serve(flags, {}, [](serve::Spec& spec) {
    spec.read_only = spec.cdrom = true;
    spec.sector_size = 2048;
  });
  rig.call(disk, {{"op", "eject"}});
  const Object restored = rig.restore(rig.save(disk));
  const json info = rig.call(restored, {{"op", "info"}})["disk"];
  CHECK(info["read_only"] == true);
  CHECK(info["cdrom"] == true);
  CHECK(info["medium"] == false);
  CHECK(info["sector_size"] == 2048);
  CHECK(rig.at(restored, 0) == 'r');
}

}  // namespace
