// SPDX-License-Identifier: MIT
// pv-vhost-load: puts a vhost-user-blk server under load and prints one line of JSON with what it
// did. The same client for any server, and cheap, so that the server is what is measured.
#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <poll.h>
#include <string>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "../driver/lane.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/units.hpp"

namespace pv::test::vhost {
namespace {

constexpr uint64_t k_answer_ms = 20'000;  // no answer at all for this long: the server hangs
constexpr unsigned k_max_queue = 32768;   // virtio 1.2, 2.7
constexpr uint32_t k_check_bytes = 1 << 20;

struct Settings {
  std::string socket;
  Load load;
  unsigned queues = 1;
  double seconds = 3;
  uint64_t spin_us = 50;  // how long the used rings are looked at before the client sleeps
  pid_t server = 0;
};

uint64_t client_cpu_us() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto us = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000 + static_cast<uint64_t>(t.tv_usec);
  };
  return us(used.ru_utime) + us(used.ru_stime);
}

// User and system time of all threads of the server, those that have ended included (proc(5)).
uint64_t server_cpu_us(pid_t pid) {
  const std::vector<std::string> fields = stat_fields(fmt::format("/proc/{}", pid));
  if (fields.size() < 13) return 0;
  const uint64_t ticks = std::stoull(fields[11]) + std::stoull(fields[12]);
  return ticks * 1'000'000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
}

class Run {
 public:
  explicit Run(const Settings& settings) : settings_(settings) {}
  Result<json> measure();

 private:
  Result<> open();
  Result<> drive();
  Result<bool> collect(bool more);
  Result<> sleep();
  Result<> check_written();
  json report() const;

  Settings settings_;
  std::unique_ptr<Driver> driver_;
  std::vector<Lane> lanes_;
  uint64_t now_ns_ = 0, elapsed_ns_ = 0, client_us_ = 0, server_us_ = 0;
  Tally tally_;
  uint64_t in_time_ = 0;    // requests answered within the time
  blk::Histogram latency_;  // theirs
};

Result<> Run::open() {
  const Load& load = settings_.load;
  Options options;
  options.queues = settings_.queues;
  options.limit_ms = k_answer_ms;
  // Room for one request more than the load: the check of what was written.
  const unsigned needed = load.depth * descriptors_of(load) + 3;
  if (needed > k_max_queue) return fail(Code::usage, "that many descriptors are in no queue");
  while (options.queue_size < needed)
    options.queue_size = static_cast<uint16_t>(2 * options.queue_size);
  const uint64_t each = load.depth * (uint64_t{load.bytes} + 16384) + (1 << 20);
  options.regions = default_regions(settings_.queues * each + 2 * k_check_bytes);
  TRY_ASSIGN(driver_, Driver::make(options));
  TRY(driver_->attach(settings_.socket));
  if (load.indirect && !driver_->has(k_f_indirect_desc))
    return fail(Code::unsupported, "the server takes no indirect descriptors; use --direct");
  TRY_ASSIGN(const BlkConfig config, Blk(*driver_).config());
  const uint64_t blocks = config.capacity / (load.bytes / k_sector);
  if (blocks < settings_.queues) return fail(Code::invalid, "the disk is too small");
  if (load.verify && load.write) tally_.written.resize(blocks);
  for (unsigned index = 0; index < settings_.queues; ++index) {
    // In order, each queue has a part of the disk.
    const uint64_t begin = load.random ? 0 : blocks * index / settings_.queues;
    const uint64_t end = load.random ? blocks : blocks * (index + 1) / settings_.queues;
    TRY_ASSIGN(Lane lane, Lane::make(*driver_, index, load, begin, end, tally_));
    lanes_.push_back(std::move(lane));
  }
  return {};
}

Result<bool> Run::collect(bool more) {
  now_ns_ = system_clock().now_ns();
  bool any = false;
  for (Lane& lane : lanes_) {
    TRY_ASSIGN(const unsigned taken, lane.collect(now_ns_, more));
    if (taken > 0) lane.queue().want_call(false);
    any |= taken > 0;
  }
  return any;
}

// Until one of the queues has something.
Result<> Run::sleep() {
  bool ready = false;
  std::vector<pollfd> waited;
  for (Lane& lane : lanes_) {
    ready |= lane.queue().want_call(true);
    waited.push_back({lane.queue().call_fd(), POLLIN, 0});
  }
  if (!ready && poll(waited.data(), waited.size(), static_cast<int>(k_answer_ms)) == 0)
    return fail(Code::timeout, "the server answers nothing");
  for (Lane& lane : lanes_) {
    if (!ready) lane.queue().wait_call(Deadline::in_ns(0));
    lane.queue().want_call(false);
  }
  return {};
}

Result<> Run::drive() {
  const uint64_t cpu = client_cpu_us(), server = server_cpu_us(settings_.server);
  const uint64_t started = now_ns_ = system_clock().now_ns();
  const auto limit = static_cast<uint64_t>(settings_.seconds * static_cast<double>(k_ns_per_s));
  uint64_t idle_since = started;
  for (Lane& lane : lanes_) lane.begin(now_ns_);
  bool more = true;
  const auto stop_clock = [&] {
    more = false;
    elapsed_ns_ = now_ns_ - started;
    client_us_ = client_cpu_us() - cpu;
    server_us_ = server_cpu_us(settings_.server) - server;
    in_time_ = tally_.completed;
    latency_ = tally_.latency;
  };
  const auto idle = [&] {
    return std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.idle(); });
  };
  while (!idle()) {
    TRY_ASSIGN(const bool any, collect(more));
    if (more && !settings_.load.once && now_ns_ - started >= limit) stop_clock();
    if (any) {
      idle_since = now_ns_;
    } else if (now_ns_ - idle_since >= settings_.spin_us * 1000) {
      TRY(sleep());
      idle_since = system_clock().now_ns();
    } else {
      __builtin_ia32_pause();
    }
  }
  if (more) stop_clock();
  return {};
}

// Reads back what was written, in large pieces, and counts the blocks that are something else.
Result<> Run::check_written() {
  const uint32_t bytes = settings_.load.bytes;
  const uint64_t at_once = std::max<uint64_t>(1, k_check_bytes / bytes);
  const uint64_t blocks = tally_.written.size();
  Blk blk(*driver_);
  for (uint64_t first = 0; first < blocks; first += at_once) {
    const uint64_t end = std::min(first + at_once, blocks);
    std::string data;
    for (uint64_t block = first; block < end; ++block) {
      if (!tally_.written[block]) continue;
      const uint64_t sectors = bytes / k_sector;
      if (data.empty()) {
        const auto size = static_cast<uint32_t>((end - first) * bytes);
        TRY_ASSIGN(const BlkReply reply, blk.read(first * sectors, size));
        if (reply.status != k_ok) ++tally_.errors;
        data = reply.data;
      }
      if (!is_pattern(*settings_.load.verify, block * sectors, &data[(block - first) * bytes],
                      bytes))
        ++tally_.mismatches;
    }
  }
  return {};
}

json Run::report() const {
  const Load& load = settings_.load;
  const double seconds = static_cast<double>(elapsed_ns_) / 1e9;
  const auto done = static_cast<double>(in_time_);
  const auto us = [](uint64_t ns) { return static_cast<double>(ns) / 1000; };
  const auto each = [done](uint64_t all_us) {
    return done == 0 ? 0 : static_cast<double>(all_us) / done;
  };
  json line = {{"op", load.write ? "write" : "read"},
               {"order", load.random ? "random" : "sequential"},
               {"bs", load.bytes},
               {"depth", load.depth},
               {"queues", settings_.queues},
               {"seconds", seconds},
               {"requests", in_time_},
               {"errors", tally_.errors},
               {"iops", done / seconds},
               {"mb_s", done * load.bytes / 1e6 / seconds},
               {"latency_us",
                {{"mean", us(latency_.mean_ns())},
                 {"p50", us(latency_.quantile_ns(0.5))},
                 {"p99", us(latency_.quantile_ns(0.99))}}},
               {"client_cpu_us", client_us_},
               {"client_cpu_us_per_request", each(client_us_)}};
  if (load.verify) line["mismatches"] = tally_.mismatches;
  if (settings_.server != 0) {
    line["server_cpu_us"] = server_us_;
    line["server_cpu_us_per_request"] = each(server_us_);
  }
  return line;
}

Result<json> Run::measure() {
  TRY(open());
  TRY(drive());
  if (settings_.load.verify && settings_.load.write) TRY(check_written());
  for (unsigned index = 0; index < settings_.queues; ++index) {
    TRY_ASSIGN([[maybe_unused]] const uint16_t base, driver_->stop_queue(index));
  }
  driver_->disconnect();  // the next client may come
  return report();
}

// What is said on the command line; the exit status in case that was all.
std::optional<int> parse(int argc, char** argv, Settings& settings) {
  CLI::App app("Puts a vhost-user-blk server under load.", "pv-vhost-load");
  std::string op = "read", size = "4k", segment = "0", seed;
  bool any_order = false, sequential = false, direct = false;
  Load& load = settings.load;
  app.add_option("SOCKET", settings.socket, "Where the server listens")->required();
  app.add_option("--op", op)->check(CLI::IsMember({"read", "write"}));
  app.add_option("--bs", size, "Bytes of a request");
  app.add_option("--depth", load.depth, "Requests in flight on each queue");
  app.add_option("--queues", settings.queues);
  app.add_option("--seconds", settings.seconds);
  auto* random = app.add_flag("--random", any_order, "Blocks at random (the default)");
  app.add_flag("--sequential", sequential, "Blocks in order")->excludes(random);
  app.add_flag("--once", load.once, "Each block once, in order, however long it takes");
  app.add_flag("--direct", direct, "A descriptor for each part, no indirect tables");
  app.add_option("--segment", segment, "Most bytes of one data descriptor");
  app.add_option("--spin", settings.spin_us, "Microseconds to look for answers before sleeping");
  app.add_option("--verify", seed, "Write, and expect, bytes that follow from this seed");
  app.add_option("--server-pid", settings.server, "The process whose CPU time is told");
  try {
    app.parse(argc, argv);
    const uint64_t bytes = parse_size(size).value_or(0);
    if (bytes == 0 || bytes % k_sector != 0 || bytes > (64 << 20))
      throw CLI::ValidationError("--bs", "not a number of sectors up to 64M");
    load.bytes = static_cast<uint32_t>(bytes);
    load.segment = static_cast<uint32_t>(parse_size(segment).value_or(0));
    if (load.depth < 1 || load.depth > 1024) throw CLI::ValidationError("--depth", "1 to 1024");
    if (settings.queues < 1 || settings.queues > 64)
      throw CLI::ValidationError("--queues", "1 to 64");
    if (!seed.empty()) {
      const auto number = parse_seed("--verify", seed);
      if (!number) throw CLI::ValidationError("--verify", number.error().message);
      load.verify = *number;
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  load.write = op == "write";
  load.random = !sequential && !load.once;
  load.indirect = !direct;
  return std::nullopt;
}

}  // namespace
}  // namespace pv::test::vhost

int main(int argc, char** argv) {
  using namespace pv::test::vhost;
  Settings settings;
  if (const auto status = parse(argc, argv, settings)) return *status;
  const auto line = Run(settings).measure();
  if (!line) {
    fmt::print(stderr, "pv-vhost-load: {}\n", line.error().message);
    return 1;
  }
  fmt::print("{}\n", line->dump());
  return 0;
}
