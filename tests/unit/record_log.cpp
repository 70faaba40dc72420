// SPDX-License-Identifier: MIT
// If this fails, a log of the record layer does not say what happened on the disk, or what it says
// cannot be had again: replayed to any point, cut at any byte, of a disk that is another one.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/resource.h>
#include <tuple>

#include "record_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;
using verify::Logged;
using verify::LogPoint;

namespace {

verify::ReplayPlan to(uint64_t n) {
  verify::ReplayPlan plan;
  plan.to.n = n;
  return plan;
}

std::vector<std::string> ops_of(const std::vector<Logged>& all) {
  std::vector<std::string> ops;
  for (const Logged& one : all) ops.emplace_back(log_kind_name(one.entry.kind));
  return ops;
}

// A change of a model disk, as a request makes it.
void change(std::string& model, Op op, uint64_t offset, uint64_t length, char fill) {
  if (op == Op::flush) return;
  std::fill_n(model.begin() + static_cast<long>(offset), length, op == Op::write ? fill : '\0');
}

struct LogStep {
  Op op;
  uint64_t offset, length;
  uint32_t flags;
  char fill;
};

LogStep random_step(Rng& rng, uint64_t size) {
  constexpr Op k_ops[] = {Op::write, Op::write, Op::write, Op::zero, Op::discard, Op::flush};
  LogStep step{k_ops[rng.below(6)], 0, 0, 0, static_cast<char>('a' + rng.below(26))};
  if (step.op == Op::flush) return step;
  const uint64_t sectors = size / 512, count = 1 + rng.below(std::min<uint64_t>(sectors, 64));
  step.offset = rng.below(sectors - count + 1) * 512;
  step.length = count * 512;
  if (step.op == Op::write && rng.below(8) == 0) step.flags = k_fua;
  return step;
}

}  // namespace

TEST_CASE("record: submission and completion are kept apart, failures and marks are told",
          "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  rig.gate->hold = true;
  Io& first = rig.start(Op::write, 4096, 512, 0, 'a');
  Io& second = rig.start(Op::write, 0, 1024, k_fua, 'b');
  Io& third = rig.start(Op::zero, 8192, 4096, k_no_unmap);
  REQUIRE(rig.disk->control(json{{"op", "record.mark"}, {"name", "between"}}));
  rig.gate->let_go(1);
  CHECK(rig.wait(second) == 0);
  rig.gate->let_go(0);
  CHECK(rig.wait(first) == 0);
  rig.gate->error = EIO;
  rig.gate->let_go(0);
  CHECK(rig.wait(third) == EIO);
  Io& never = rig.start(Op::discard, 0, 512);
  const auto all = logged(rig.log());  // of a log that is still being written
  REQUIRE(all.size() >= 4);
  rig.gate->error = 0;
  rig.gate->let_go(0);
  CHECK(rig.wait(never) == 0);
  rig.gate->hold = false;
  CHECK(rig.run(Op::flush) == 0);
  rig.close();

  const auto whole = logged(rig.log());
  CHECK(ops_of(whole) ==
        std::vector<std::string>{"write", "write", "zero", "mark", "discard", "flush"});
  CHECK(whole[0].done_order == 2);
  CHECK(whole[1].done_order == 1);
  CHECK(whole[1].entry.flags == k_log_fua);
  CHECK(whole[2].entry.flags == k_log_no_unmap);
  CHECK(whole[2].fate == Logged::failed);
  CHECK(whole[2].error == EIO);
  CHECK(whole[3].mark == "between");
  CHECK(whole[4].fate == Logged::done);
  CHECK(whole[0].entry.hash == log_hash(std::string(512, 'a')));
  for (size_t i = 0; i < whole.size(); ++i) CHECK(whole[i].entry.n == i + 1);
  CHECK(LogReader::open(rig.log())->head().state == LogHead::closed);
}

TEST_CASE("record: a flush is answered when the log up to it is in the file", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 4096) == 0);
  CHECK(rig.run(Op::flush) == 0);
  const auto all = logged(rig.log());
  CHECK(ops_of(all) == std::vector<std::string>{"write", "flush"});
  CHECK(all[1].fate == Logged::done);
  CHECK(rig.run(Op::write, 0, 512, k_fua) == 0);
  CHECK(logged(rig.log()).size() == 3);
}

TEST_CASE("record: reads pass, and a log that is there is not touched", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::read, 0, 512) == 0);
  rig.close();
  CHECK(logged(rig.log()).empty());
  const std::string before = file_bytes(rig.log());
  const auto again = rig.open();
  REQUIRE_FALSE(again);
  CHECK(again.error().code == Code::duplicate_name);
  CHECK(file_bytes(rig.log()) == before);
  put_file(rig.log(), "precious");
  CHECK(rig.open(",append=yes").error().code == Code::invalid);
  CHECK(file_bytes(rig.log()) == "precious");
}

TEST_CASE("record: append goes on behind what can be used, for the same disk only", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 512, 0, 'a') == 0);
  rig.put_away();
  put_file(rig.log(), file_bytes(rig.log()) + "half an entry");
  REQUIRE(rig.open(",append=yes"));
  CHECK(rig.run(Op::write, 512, 512, 0, 'b') == 0);
  rig.put_away();
  CHECK(ops_of(logged(rig.log())) == std::vector<std::string>{"write", "session", "write"});
  const auto made = replayed(rig.log(), {}, std::string(1 << 20, '\0'));
  REQUIRE(made);
  CHECK(made->substr(0, 1024) == std::string(512, 'a') + std::string(512, 'b'));
  const auto larger = rig.open(",append=yes", 2 << 20);
  REQUIRE_FALSE(larger);
  CHECK(larger.error().code == Code::incompatible);
  const std::string log = file_bytes(rig.log());
  for (const size_t at : {size_t{0}, size_t{(1 << 20) - 1}}) {
    const std::string same = rig.before;
    rig.before[at] = '!';
    const auto other = rig.open(",append=yes");
    REQUIRE_FALSE(other);
    CHECK(other.error().code == Code::incompatible);
    CHECK(file_bytes(rig.log()) == log);
    rig.before = same;
  }
  CHECK(rig.open(",append=yes"));
}

TEST_CASE("record: a replay to any request is what a model says", "[record]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  constexpr uint64_t k_size = 256 << 10;
  RecordRig rig;
  REQUIRE(rig.open("", k_size));
  std::vector<std::string> states = {std::string(k_size, '\0')};
  for (int i = 0; i < 200; ++i) {
    const LogStep step = random_step(rng, k_size);
    rig.gate->error = rng.below(10) == 0 ? EIO : 0;
    const int error = rig.run(step.op, step.offset, step.length, step.flags, step.fill);
    CHECK(error == rig.gate->error);
    states.push_back(states.back());
    if (error == 0) change(states.back(), step.op, step.offset, step.length, step.fill);
  }
  rig.gate->error = 0;
  CHECK(rig.content() == states.back());
  rig.close();
  REQUIRE(logged(rig.log()).size() == 200);
  for (int i = 0; i < 40; ++i) {
    const uint64_t n = 1 + rng.below(200), from = rng.below(n);
    INFO("to " << n << " from " << from);
    const auto made = replayed(rig.log(), to(n), states[0]);
    REQUIRE(made);
    CHECK(*made == states[n]);
    if (from == 0) continue;
    verify::ReplayPlan plan = to(n);
    plan.from.n = from;
    CHECK(*replayed(rig.log(), plan, states[from]) == states[n]);
  }
  CHECK(*replayed(rig.log(), {}, states[0]) == states.back());
}

TEST_CASE("record: many in flight, completed in any order, replay to what the disk holds",
          "[record]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  RecordRig rig;
  REQUIRE(rig.open());
  rig.gate->hold = true;
  for (int round = 0; round < 20; ++round) {
    // Ranges of a round do not overlap: for those that do no order is promised.
    for (uint64_t i = 0; i < 16; ++i)
      rig.start(rng.below(4) == 0 ? Op::discard : Op::write, i * 65536 + 512 * rng.below(8), 4096,
                rng.below(8) == 0 ? static_cast<uint32_t>(k_fua) : 0,
                static_cast<char>('a' + rng.below(26)));
    while (!rig.gate->held.empty()) rig.gate->let_go(rng.below(rig.gate->held.size()));
    for (auto& io : rig.all) CHECK(rig.wait(*io) == 0);
    rig.all.clear();
  }
  rig.gate->hold = false;
  const std::string content = rig.content();
  rig.close();
  CHECK(*replayed(rig.log(), {}, std::string(1 << 20, '\0')) == content);
}

TEST_CASE("record: cut at any byte, everything before the cut can be used", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 8192));
  CHECK(rig.run(Op::write, 0, 512, 0, 'a') == 0);
  CHECK(rig.run(Op::zero, 0, 512) == 0);
  CHECK(rig.run(Op::write, 1024, 1024, k_fua, 'b') == 0);
  REQUIRE(rig.disk->control(json{{"op", "record.mark"}, {"name", "here"}}));
  CHECK(rig.run(Op::flush) == 0);
  rig.close();
  const std::string whole = file_bytes(rig.log());
  // Where entries end, from the layout: head, then 64 bytes and data each.
  const std::vector<std::pair<uint64_t, uint64_t>> ends = {
      {4096, 0},        {4096 + 576, 1},        {4096 + 640, 1},        {4096 + 704, 2},
      {4096 + 768, 2},  {4096 + 768 + 1088, 3}, {4096 + 832 + 1088, 3}, {4096 + 832 + 1160, 4},
      {4096 + 2056, 5}, {4096 + 2120, 5}};
  REQUIRE(whole.size() == ends.back().first);
  const std::string cut_path = rig.dir.path("cut");
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    put_file(cut_path, whole.substr(0, cut));
    if (cut < k_log_head) {
      CHECK_FALSE(LogReader::open(cut_path));
      continue;
    }
    uint64_t expected = 0, used = 0;
    for (const auto& [end, count] : ends)
      if (end <= cut) std::tie(used, expected) = std::pair(end, count);
    auto reader = LogReader::open(cut_path);
    REQUIRE(reader);
    while ((*reader->next()).has_value()) continue;
    if (reader->last() != expected || reader->used() != used) {
      INFO("cut at " << cut);
      CHECK(reader->last() == expected);
      CHECK(reader->used() == used);
    }
    REQUIRE(replayed(cut_path, {}, std::string(8192, '\0')));
  }
}

TEST_CASE("record: a byte that has changed ends what is believed", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 8192));
  for (int i = 0; i < 4; ++i) CHECK(rig.run(Op::write, 512 * static_cast<uint64_t>(i), 512) == 0);
  rig.close();
  const std::string whole = file_bytes(rig.log());
  const std::string path = rig.dir.path("bad");
  for (size_t at = 0; at < whole.size(); ++at) {
    if (at >= 508 + 4 && at < k_log_head) continue;  // no field of the head
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x40);
    put_file(path, bad);
    if (at < k_log_head) {
      CHECK_FALSE(LogReader::open(path));
      continue;
    }
    auto reader = LogReader::open(path);
    uint64_t entries = 0;
    while ((*reader->next()).has_value()) ++entries;
    // Write entries of 576 bytes and completions of 64, in turn.
    const size_t in = (at - k_log_head) % 640;
    const uint64_t before = (at - k_log_head) / 640 * 2 + (in >= 576 ? 1 : 0);
    if (entries != before) {
      INFO("byte " << at);
      CHECK(entries == before);
    }
  }
}

TEST_CASE("record: another disk is refused, unless it is forced", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 4096, 512, 0, 'z') == 0);
  rig.close();
  const std::string blank(1 << 20, '\0'), other(1 << 20, 'o'), longer(2 << 20, '\0');
  for (const std::string& disk : {other, longer}) {
    const auto refused = replayed(rig.log(), {}, disk);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Code::incompatible);
    verify::ReplayPlan plan;
    plan.force = true;
    const auto forced = replayed(rig.log(), plan, disk);
    REQUIRE(forced);
    CHECK(forced->substr(4096, 512) == std::string(512, 'z'));
  }
  verify::ReplayPlan plan;
  plan.force = true;
  CHECK(replayed(rig.log(), plan, std::string(4096, '\0')).error().code == Code::out_of_range);
  CHECK(replayed(rig.log(), to(9), blank).error().code == Code::invalid);
  plan.to = LogPoint::parse("nowhere");
  CHECK(replayed(rig.log(), plan, blank).error().code == Code::invalid);
}

TEST_CASE("record: what waits for the log is bounded, and all of it gets there", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 64 << 20));
  std::vector<Io*> ios;
  for (uint64_t i = 0; i < 12; ++i)
    ios.push_back(&rig.start(Op::write, i * (4 << 20), 4 << 20, 0, static_cast<char>('a' + i)));
  json shown;
  rig.disk->inspect(shown);
  CHECK(shown["record"]["waiting"].get<int>() >= 8);  // 16 MiB and no more
  for (Io* io : ios) CHECK(rig.wait(*io) == 0);
  CHECK(rig.run(Op::write, 0, 32 << 20, 0, 'q') == 0);  // larger than all there is
  const std::string content = rig.content();
  rig.close();
  CHECK(*replayed(rig.log(), {}, std::string(64 << 20, '\0')) == content);
}

TEST_CASE("record: a log that cannot be written is broken and says so; no request fails",
          "[record]") {
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 4096, 0, 'a') == 0);
  CHECK(rig.run(Op::flush) == 0);
  rlimit small = old;
  small.rlim_cur = 64 << 10;
  setrlimit(RLIMIT_FSIZE, &small);
  for (uint64_t i = 1; i < 100; ++i) {
    CHECK(rig.run(Op::write, i * 4096, 4096, 0, 'b') == 0);
    CHECK(rig.run(Op::flush) == 0);
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_action);
  CHECK(rig.run(Op::write, 0, 512, k_fua, 'c') == 0);
  json shown;
  rig.disk->inspect(shown);
  CHECK(shown["record"]["state"] == "broken");
  CHECK(shown["record"]["error"] == "EFBIG");
  CHECK(shown["record"]["not_recorded"].get<int>() > 100);
  const auto mark = rig.disk->control(json{{"op", "record.mark"}, {"name", "late"}});
  REQUIRE_FALSE(mark);
  CHECK(mark.error().code == Code::io);
  rig.close();
  auto reader = LogReader::open(rig.log());
  REQUIRE(reader);
  CHECK(reader->head().state == LogHead::broken);
  CHECK(reader->head().error == EFBIG);
  // What is there is the beginning: some writes of 'b', one after the other.
  const auto all = logged(rig.log());
  REQUIRE(all.size() > 10);
  for (size_t i = 0; i < all.size(); i += 2) CHECK(all[i].entry.offset == i / 2 * 4096);
}

TEST_CASE("record: a new size is part of the log", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 64 << 10));
  CHECK(rig.run(Op::write, 0, 512, 0, 'a') == 0);
  REQUIRE(rig.disk->resize(128 << 10));
  CHECK(rig.run(Op::write, 100 << 10, 512, 0, 'b') == 0);
  const std::string content = rig.content();
  rig.close();
  CHECK(*replayed(rig.log(), {}, std::string(64 << 10, '\0')) == content);
  CHECK(content.size() == 128 << 10);
}

TEST_CASE(
    "record: a disk can be closed while its log is being written, also when its loop has "
    "stopped",
    "[record]") {
  for (const bool stopped : {false, true}) {
    RecordRig rig;
    REQUIRE(rig.open("", 16 << 20));
    rig.start(Op::write, 0, 4 << 20, 0, 'm');  // more than a batch: it is on its way at once
    if (stopped) rig.loop->stop();
    rig.close();
    CHECK(logged(rig.log()).size() == 1);
    CHECK(LogReader::open(rig.log())->head().state == LogHead::closed);
  }
}
