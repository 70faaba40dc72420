// SPDX-License-Identifier: MIT
// A load on a block device, for a guest: blkload DEVICE SEED SECONDS [THREADS]. Each thread has a
// part of the device to itself; it writes blocks that say where they belong and how often that
// place was written, reads others back, and knows what every one must hold. The first error or
// difference is one line and exit status 1; at the end all is read again, and there is one line
// with what was done. Everything past the page cache.
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

constexpr size_t k_block = 4096, k_max_run = 16;
constexpr uint64_t k_max_blocks = 4096;  // of a thread

struct Stamp {
  uint64_t seed, block, generation, check;
};

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15U ^ (b + 0x7f4a7c15U);
  x ^= x >> 31;
  x *= 0xbf58476d1ce4e5b9U;
  return x ^ x >> 29;
}

class Writer {
 public:
  Writer(const char* device, uint64_t seed, uint64_t first, uint64_t count)
      : seed_(seed), first_(first), generations_(count), random_(seed) {
    fd_ = open(device, O_RDWR | O_DIRECT);
    if (fd_ < 0) die("open", 0);
    if (posix_memalign(reinterpret_cast<void**>(&buffer_), k_block, k_block * k_max_run) != 0)
      die("memory", 0);
  }

  void run_until(std::chrono::steady_clock::time_point end) {
    for (uint64_t b = 0; b < generations_.size(); b += k_max_run) write(b, k_max_run);
    while (std::chrono::steady_clock::now() < end) {
      const uint64_t count = 1 + next() % k_max_run;
      const uint64_t block = next() % (generations_.size() - count + 1);
      switch (next() % 8) {
        case 0:
          if (fdatasync(fd_) != 0) die("flush", block);
          ++flushes;
          break;
        case 1:
        case 2:
        case 3:
          read(block, count);
          break;
        default:
          write(block, count);
      }
    }
    for (uint64_t b = 0; b < generations_.size(); b += k_max_run) read(b, k_max_run);
    if (fdatasync(fd_) != 0) die("flush", 0);
  }

  uint64_t reads = 0, writes = 0, flushes = 0;

 private:
  uint64_t next() { return random_ = mix(random_, 1); }

  // The stamp stands in every sector, so that a torn block is seen.
  void fill(char* to, uint64_t block) const {
    const uint64_t generation = generations_[block];
    for (size_t at = 0; at < k_block; at += 512) {
      const Stamp stamp{seed_, block, generation, mix(seed_ ^ block, generation + at)};
      std::memset(to + at, static_cast<int>(generation), 512);
      std::memcpy(to + at, &stamp, sizeof stamp);
    }
  }

  void write(uint64_t block, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      ++generations_[block + i];
      fill(buffer_ + i * k_block, block + i);
    }
    if (pwrite(fd_, buffer_, count * k_block, at(block)) != static_cast<ssize_t>(count * k_block))
      die("write", block);
    ++writes;
  }

  void read(uint64_t block, uint64_t count) {
    if (pread(fd_, buffer_, count * k_block, at(block)) != static_cast<ssize_t>(count * k_block))
      die("read", block);
    ++reads;
    char wanted[k_block];
    for (uint64_t i = 0; i < count; ++i) {
      fill(wanted, block + i);
      if (std::memcmp(wanted, buffer_ + i * k_block, k_block) == 0) continue;
      Stamp got{};
      std::memcpy(&got, buffer_ + i * k_block, sizeof got);
      std::printf("block %lu holds block %lu of generation %lu, not %lu\n", first_ + block + i,
                  first_ + got.block, got.generation, generations_[block + i]);
      std::exit(1);
    }
  }

  off_t at(uint64_t block) const { return static_cast<off_t>((first_ + block) * k_block); }
  [[noreturn]] void die(const char* what, uint64_t block) const {
    std::printf("%s of block %lu: %s\n", what, first_ + block, std::strerror(errno));
    std::exit(1);
  }

  int fd_;
  uint64_t seed_, first_;
  std::vector<uint64_t> generations_;
  uint64_t random_;
  char* buffer_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const char* device = argv[1];
  const uint64_t seed = std::strtoull(argv[2], nullptr, 10);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[3]));
  const unsigned threads = argc > 4 ? static_cast<unsigned>(std::atoi(argv[4])) : 2;
  const int fd = open(device, O_RDONLY);
  const uint64_t blocks = static_cast<uint64_t>(lseek(fd, 0, SEEK_END)) / k_block;
  uint64_t each = blocks / threads / k_max_run * k_max_run;
  each = each < k_max_blocks ? each : k_max_blocks;
  if (fd < 0 || each == 0) {
    std::printf("%s: %s\n", device, fd < 0 ? std::strerror(errno) : "too small");
    return 1;
  }
  std::vector<Writer> writers;
  for (unsigned i = 0; i < threads; ++i) writers.emplace_back(device, seed + i, i * each, each);
  std::vector<std::thread> running;
  for (Writer& writer : writers) running.emplace_back([&] { writer.run_until(end); });
  for (std::thread& one : running) one.join();
  uint64_t reads = 0, writes = 0, flushes = 0;
  for (const Writer& writer : writers) {
    reads += writer.reads;
    writes += writer.writes;
    flushes += writer.flushes;
  }
  std::printf("reads %lu writes %lu flushes %lu blocks %lu\n", reads, writes, flushes,
              each * threads);
  return 0;
}
