// SPDX-License-Identifier: MIT
// If this fails, a restored disk has forgotten what its layers knew, or misbehaves otherwise than
// it would have.
#include "snap_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

Object serve_memory(SnapRig& rig, std::vector<std::string> layers = {}) {
  serve::SourceFlags flags;
  flags.memory = "1M";
  return rig.serve(flags, std::move(layers));
}

void add(SnapRig& rig, const Object& disk, const json& rule) {
  rig.call(disk, {{"op", "fault.add"}, {"rule", rule}});
}

// A fixed sequence of requests, some of which fail; what each has come to.
std::string exercise(SnapRig& rig, const Object& disk, int from, int to) {
  std::string outcomes;
  for (int i = from; i < to; ++i) {
    const uint64_t offset = static_cast<uint64_t>(i) % 16 * 4096;
    json request = {{"op", i % 3 == 0 ? "read" : i % 7 == 0 ? "flush" : "write"}};
    if (request["op"] != "flush")
      request.update({{"offset_bytes", offset}, {"length_bytes", 4096}});
    if (request["op"] == "write")
      request["b64"] = base64_encode(std::string(4096, static_cast<char>('A' + i % 26)));
    const auto reply = rig.client(disk).call(request);
    outcomes += reply ? get_string(*reply, "b64") : reply.error().message.substr(3);
    outcomes += '\n';
  }
  return outcomes;
}

TEST_CASE("faults go on as if there had been no snapshot", "[snapshot]") {
  SnapRig rig;
  const json rules =
      json::array({{{"id", "dice"},
                    {"match", {{"op", {"read", "write"}}}},
                    {"when", {{"probability", 0.3}, {"seed", "18446744073709551615"}}},
                    {"do", {{"kind", "error"}, {"errno", "EIO"}}}},
                   {{"id", "third"},
                    {"match", {{"op", {"flush"}}}},
                    {"when", {{"every", 2}, {"times", 5}, {"after", 1}}},
                    {"do", {{"kind", "error"}, {"errno", "ENOSPC"}}},
                    {"then", {{"state", "broken"}}}},
                   {{"id", "later"},
                    {"when", {{"state", "broken"}, {"probability", 0.5}}},
                    {"do", {{"kind", "error"}, {"errno", "EROFS"}}}},
                   {{"id", "tear"},
                    {"match", {{"op", {"write"}}, {"ranges", {{0, 8192}, {16384, 4096}}}}},
                    {"when", {{"every", 2}}},
                    {"do", {{"kind", "torn_write"}, {"keep", "random"}}},
                    {"heal", "rewrite"}},
                   {{"id", "flip"},
                    {"match", {{"op", {"read"}}}},
                    {"when", {{"every", 3}}},
                    {"do", {{"kind", "corrupt_read"}, {"count", 3}}}}});
  std::string plain, parted;
  json plain_journal, parted_journal, plain_rules, parted_rules;
  constexpr int k_half = 37, k_all = 90;
  for (const bool snapshot : {false, true}) {
    Object disk = serve_memory(rig);
    rig.call(disk, {{"op", "fault.add"}, {"rules", rules}});
    std::string out = exercise(rig, disk, 0, k_half);
    json events = rig.journal(disk);
    if (snapshot) {
      const Saved saved = rig.save(disk);
      exercise(rig, disk, 0, 5);  // what the original does is no business of the copy's
      disk = rig.restore(rig.save(rig.restore(saved)));
      CHECK(rig.journal(disk).empty());
    }
    out += exercise(rig, disk, k_half, k_all);
    const json more = rig.journal(disk);
    if (!snapshot) events = more;
    if (snapshot) events.insert(events.end(), more.begin(), more.end());
    (snapshot ? parted : plain) = out;
    (snapshot ? parted_journal : plain_journal) = events;
    (snapshot ? parted_rules : plain_rules) = rig.call(disk, {{"op", "fault.list"}});
  }
  CHECK(plain_journal.size() > 30);
  CHECK(plain_journal == parted_journal);
  CHECK(plain_rules == parted_rules);
  CHECK(plain == parted);
}

TEST_CASE("time windows and latches are kept", "[snapshot]") {
  SnapRig rig;
  const Object disk = serve_memory(rig, {"cache"});
  add(rig, disk,
      {{"id", "window"},
       {"match", {{"op", {"read"}}}},
       {"when", {{"until_ms", 60'000}}},
       {"do", {{"kind", "error"}, {"errno", "EIO"}}}});
  add(rig, disk,
      {{"id", "over"},
       {"match", {{"op", {"write"}}}},
       {"when", {{"until_ms", 1}}},
       {"do", {{"kind", "error"}, {"errno", "EIO"}}}});
  add(rig, disk,
      {{"id", "cut"},
       {"match", {{"op", {"discard"}}}},
       {"do", {{"kind", "power_cut"}, {"errno", "ENODEV"}}}});
  sleep_ns(5 * k_ns_per_ms);
  rig.write(disk, 0, 'w');
  const Object restored = rig.restore(rig.save(disk));
  rig.write(restored, 4096, 'w');  // its time was over before, and does not begin anew
  const json read = {{"op", "read"}, {"offset_bytes", 0}, {"length_bytes", 4096}};
  CHECK(rig.refused(restored, read) == Code::io);
  CHECK(rig.refused(restored, {{"op", "discard"}, {"offset_bytes", 0}, {"length_bytes", 4096}}) ==
        Code::io);
  rig.call(restored, {{"op", "fault.clear"}, {"id", "window"}});
  CHECK(rig.refused(restored, read) == Code::io);  // gone stays gone
  const Object again = rig.restore(rig.save(restored));
  CHECK(rig.refused(again, read) == Code::io);
  rig.call(again, {{"op", "fault.clear"}});
  CHECK(rig.at(again, 0) == '\0');
}

TEST_CASE("what the medium should hold, and what has yet to land, is kept", "[snapshot]") {
  SnapRig rig;
  const Object disk = serve_memory(rig);
  rig.write(disk, 0, 'o');
  add(rig, disk,
      {{"id", "drop"},
       {"match", {{"op", {"write"}}, {"ranges", {{0, 4096}}}}},
       {"do", {{"kind", "drop_write"}}}});
  add(rig, disk,
      {{"id", "late"},
       {"match", {{"op", {"write"}}, {"ranges", {{8192, 4096}}}}},
       {"do", {{"kind", "late_write"}, {"after_ms", 1000}}}});
  add(rig, disk,
      {{"id", "stale"},
       {"match", {{"op", {"read"}}, {"ranges", {{16'384, 4096}}}}},
       {"do", {{"kind", "stale_read"}}}});
  rig.write(disk, 0, 'd');
  const uint64_t written_ns = system_clock().now_ns();
  rig.write(disk, 8192, 'l');
  rig.write(disk, 16'384, 's');
  const Object restored = rig.restore(rig.save(disk));
  const json damaged = rig.call(restored, {{"op", "fault.truth"}})["damaged_bytes"];
  const char late = rig.at(restored, 8192);
  if (system_clock().now_ns() - written_ns < k_ns_per_s) {
    CHECK(damaged == 8192);
    CHECK(late == '\0');
  } else {
    WARN("not seen: on this machine the late write landed before the restored disk was read");
  }
  CHECK(rig.at(restored, 0) == 'o');
  CHECK(rig.at(restored, 16'384) == '\0');
  const Deadline deadline = SnapRig::soon();
  while (rig.at(restored, 8192) != 'l' && !deadline.passed()) sleep_ns(10 * k_ns_per_ms);
  CHECK(rig.at(restored, 8192) == 'l');
  rig.call(restored, {{"op", "fault.clear"}, {"repair", true}});
  CHECK(rig.at(restored, 0) == 'd');
  CHECK(rig.at(restored, 16'384) == 's');
}

TEST_CASE("ranges are kept as a rewrite has left them", "[snapshot]") {
  SnapRig rig;
  const Object disk = serve_memory(rig);
  add(rig, disk,
      {{"id", "bad"},
       {"match", {{"op", {"read"}}, {"ranges", {{0, 8192}, {16'384, 512}}}}},
       {"do", {{"kind", "medium"}}},
       {"heal", "rewrite"}});
  rig.write(disk, 0, 'n');
  const Object restored = rig.restore(rig.save(disk));
  const json read = {{"op", "read"}, {"offset_bytes", 4096}, {"length_bytes", 4096}};
  CHECK(rig.at(restored, 0) == 'n');
  CHECK(rig.refused(restored, read) == Code::io);
  rig.write(restored, 4096, 'm');
  rig.write(restored, 16'384, 'm');
  const Object healed = rig.restore(rig.save(restored));  // not a range is left
  CHECK(rig.at(healed, 4096) == 'm');
  CHECK(rig.at(healed, 16'384) == 'm');
  CHECK(rig.call(healed, {{"op", "fault.list"}})["rules"].size() == 1);
}

TEST_CASE("what is volatile stays volatile", "[snapshot]") {
  SnapRig rig;
  const Object disk = serve_memory(rig, {"cache"});
  rig.write(disk, 0, 'f', 8192);
  rig.call(disk, {{"op", "flush"}});
  rig.write(disk, 0, 'v', 512);
  rig.write(disk, 8192, 'w');
  rig.call(disk, {{"op", "zero"}, {"offset_bytes", 4096}, {"length_bytes", 4096}});
  const json held = rig.all_of(disk)["cache"]["held_bytes"];
  const Saved saved = rig.save(disk);
  CHECK(rig.all_of(disk)["cache"]["held_bytes"] == held);  // nothing was flushed for it
  Object restored = rig.restore(saved);
  CHECK(rig.all_of(restored)["cache"]["held_bytes"] == held);
  CHECK(rig.read(restored, 0, 1024) == std::string(512, 'v') + std::string(512, 'f'));
  CHECK(rig.at(restored, 4096) == '\0');
  CHECK(rig.at(restored, 8192) == 'w');
  const json lost = rig.call(restored, {{"op", "cache.drop"}, {"survivors", "none"}});
  CHECK(lost["dropped_bytes"] == 512 + 4096 + 4096);
  CHECK(rig.at(restored, 0) == 'f');
  CHECK(rig.at(restored, 4096) == 'f');
  CHECK(rig.at(restored, 8192) == '\0');
  restored = rig.restore(saved);
  rig.call(restored, {{"op", "flush"}});
  rig.call(restored, {{"op", "cache.drop"}, {"survivors", "none"}});
  CHECK(rig.at(restored, 8192) == 'w');
}

// The VM is QEMU here, which flushes when it lets go of a disk.
TEST_CASE("a flush in the window is held, unless it was the guest's", "[snapshot]") {
  SnapRig rig;
  const Object disk = serve_memory(rig, {"cache"});
  const std::string uri = get_string(rig.call(disk, {{"op", "info"}})["disk"], "uri");
  const auto qemu = [&](std::vector<std::string> commands) {
    std::vector<std::string> argv = {"qemu-io", "-f", "raw", "-t", "writeback", uri};
    for (std::string& command : commands) argv.insert(argv.end(), {"-c", std::move(command)});
    const auto run = run_program(argv, SnapRig::soon());
    REQUIRE(run);
    REQUIRE(run->status.code == 0);
  };
  const auto held = [&] { return rig.all_of(disk)["cache"]["held_bytes"].get<uint64_t>(); };
  rig.write(disk, 0, 'v');
  std::optional<serve::DiskClient> taker = rig.client(disk);
  const json before = *taker->call({{"op", "snap.prepare"}});
  CHECK(before["pending"] == false);
  qemu({"read 0 4k", "flush"});
  const json flushes = *taker->call({{"op", "snap.flushes"}});
  CHECK(flushes["flushes"].get<int>() > before["flushes"].get<int>());
  CHECK(flushes["pending"] == true);
  CHECK(held() == 4096);
  const std::string dir = rig.fresh("snap");
  REQUIRE(make_dir(dir));
  json save = {{"op", "snap.save"}, {"dir", dir}};
  SECTION("dropped") {
    save["pending_flush"] = "drop";
    CHECK((*taker->call(save))["pending_flush"] == nullptr);
    CHECK(held() == 4096);
    qemu({"flush"});
    CHECK(held() == 0);  // the window is over
  }
  SECTION("kept") {
    save["pending_flush"] = "keep";
    CHECK((*taker->call(save))["pending_flush"] == json{{"errno", nullptr}});
    CHECK(held() == 0);
  }
  SECTION("nobody says what it was") {
    taker.reset();
    const Deadline deadline = SnapRig::soon();
    while (held() != 0 && !deadline.passed()) sleep_ns(k_ns_per_ms);
    CHECK(held() == 0);
  }
}

TEST_CASE("reservations are kept, and those of two copies are apart", "[snapshot]") {
  SnapRig rig;
  const std::string file = rig.fresh("ptpl");
  const Object disk = serve_memory(rig, {"reserve:ptpl=" + file});
  rig.call(disk,
           {{"op", "reserve.register"}, {"host_key", "h1"}, {"new_key", "0x1"}, {"ptpl", true}});
  rig.call(
      disk,
      {{"op", "reserve.reserve"}, {"host_key", "h1"}, {"key", "0x1"}, {"type", "write_exclusive"}});
  const json report = rig.call(disk, {{"op", "reserve.report"}});
  const std::string persistent = *read_file(file, 4096);
  const Object restored = rig.restore(rig.save(disk));
  CHECK(rig.call(restored, {{"op", "reserve.report"}}) == report);
  const json write = {{"op", "write"},
                      {"offset_bytes", 0},
                      {"length_bytes", 512},
                      {"b64", base64_encode(std::string(512, 'h'))},
                      {"host_key", "h2"}};
  CHECK(rig.refused(restored, write) == Code::reservation_conflict);
  rig.call(restored, {{"op", "reserve.clear"}, {"host_key", "h1"}, {"key", "0x1"}});
  rig.call(restored, write);
  CHECK(rig.refused(disk, write) == Code::reservation_conflict);
  CHECK(*read_file(file, 4096) == persistent);
}

}  // namespace
