// SPDX-License-Identifier: MIT
// Does random things to one file and keeps in memory what it should hold: fsx FILE [--seed N]
// [--ops N] [--size BYTES] [--direct]. What is read comes from the disk, because the page cache is
// dropped every now and then. The first difference is one line on stderr and exit status 1, a call
// that fails is status 2. Static, so that it runs in any guest.
#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/falloc.h>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

constexpr uint64_t k_most = 64 << 10;  // bytes of one operation
constexpr uint64_t k_block = 4096;     // what O_DIRECT is aligned to

[[noreturn]] [[gnu::format(printf, 2, 3)]] void die(int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("fsx: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

struct Options {
  std::string path;
  uint64_t seed = 1, ops = 1000, size = 1 << 20;
  bool direct = false;
};

class Load {
 public:
  explicit Load(const Options& options)
      : options_(options), state_(options.seed), model_(options.size, '\0') {
    fd_ = open(options.path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd_ < 0) die(2, "cannot open %s: %s", options.path.c_str(), strerror(errno));
    if (options.direct) direct_ = open(options.path.c_str(), O_RDWR | O_DIRECT);
    if (options.direct && direct_ < 0) die(2, "no O_DIRECT: %s", strerror(errno));
    buffer_.reset(static_cast<char*>(aligned_alloc(k_block, k_most)));
  }

  void run() {
    for (n_ = 1; n_ <= options_.ops; ++n_) step();
    forget();
    for (uint64_t at = 0; at < size_; at += k_most) compare(fd_, at, k_most);
  }

 private:
  struct Free {
    void operator()(char* bytes) const { free(bytes); }
  };

  // SplitMix64: the same load for the same seed, on any machine.
  uint64_t below(uint64_t bound) {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % bound;
  }

  void step() {
    uint64_t length = 1 + below(k_most);
    uint64_t at = below(options_.size - length + 1);
    const uint64_t what = below(100);
    const bool aligned = direct_ >= 0 && below(2) == 0;
    if (aligned) {
      at = at / k_block * k_block;
      length = std::max(length / k_block, uint64_t{1}) * k_block;
    }
    if (what < 35) return write_random(aligned ? direct_ : fd_, at, length);
    if (what < 70) return compare(aligned ? direct_ : fd_, at, length);
    if (what < 78) return cut(below(options_.size + 1));
    if (what < 86) return fall(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
    if (what < 94) return fall(FALLOC_FL_ZERO_RANGE, at, length);
    if (what < 97) return must(fdatasync(fd_) == 0, "fdatasync", 0, 0);
    forget();
  }

  void must(bool good, const char* what, uint64_t at, uint64_t length) const {
    if (!good)
      die(2, "operation %" PRIu64 ": %s at %" PRIu64 ", %" PRIu64 " bytes: %s", n_, what, at,
          length, strerror(errno));
  }

  void write_random(int fd, uint64_t at, uint64_t length) {
    for (uint64_t i = 0; i < length; ++i) buffer_.get()[i] = static_cast<char>(below(256));
    const ssize_t done = pwrite(fd, buffer_.get(), length, static_cast<off_t>(at));
    must(done == static_cast<ssize_t>(length), "write", at, length);
    std::copy(buffer_.get(), buffer_.get() + length, model_.begin() + static_cast<off_t>(at));
    size_ = std::max(size_, at + length);
  }

  void compare(int fd, uint64_t at, uint64_t length) {
    const uint64_t there = std::min(length, size_ - std::min(size_, at));
    const ssize_t done = pread(fd, buffer_.get(), length, static_cast<off_t>(at));
    must(done >= 0, "read", at, length);
    if (static_cast<uint64_t>(done) != there)
      die(1, "operation %" PRIu64 ": a read at %" PRIu64 " gave %zd bytes and not %" PRIu64, n_, at,
          done, there);
    const char* wanted = model_.data() + at;
    const auto differs = std::mismatch(buffer_.get(), buffer_.get() + there, wanted);
    if (differs.first != buffer_.get() + there)
      die(1, "operation %" PRIu64 ": byte %" PRIu64 " is 0x%02x and should be 0x%02x", n_,
          at + static_cast<uint64_t>(differs.first - buffer_.get()),
          static_cast<uint8_t>(*differs.first), static_cast<uint8_t>(*differs.second));
  }

  void cut(uint64_t size) {
    must(ftruncate(fd_, static_cast<off_t>(size)) == 0, "truncate", size, 0);
    std::fill(model_.begin() + static_cast<off_t>(size), model_.end(), '\0');
    size_ = size;
  }

  void fall(int mode, uint64_t at, uint64_t length) {
    const int done = fallocate(fd_, mode, static_cast<off_t>(at), static_cast<off_t>(length));
    must(done == 0, "fallocate", at, length);
    const auto begin = model_.begin() + static_cast<off_t>(at);
    std::fill(begin, begin + static_cast<off_t>(length), '\0');
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) size_ = std::max(size_, at + length);
  }

  // From here on what is read has to come from the disk.
  void forget() {
    must(fsync(fd_) == 0, "fsync", 0, 0);
    must(posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise", 0, 0);
  }

  const Options& options_;
  uint64_t state_, n_ = 0, size_ = 0;
  std::vector<char> model_;
  std::unique_ptr<char, Free> buffer_;
  int fd_ = -1, direct_ = -1;
};

uint64_t number(const char* text) {
  char* end = nullptr;
  const uint64_t value = text == nullptr ? 0 : strtoull(text, &end, 0);
  if (text == nullptr || *end != '\0') die(2, "'%s' is no number", text == nullptr ? "" : text);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--direct") {
      options.direct = true;
    } else if (word == "--seed") {
      options.seed = number(argv[++i]);
    } else if (word == "--ops") {
      options.ops = number(argv[++i]);
    } else if (word == "--size") {
      options.size = number(argv[++i]) / k_block * k_block;
    } else {
      options.path = word;
    }
  }
  if (options.path.empty() || options.size < k_most)
    die(2, "usage: fsx FILE [--seed N] [--ops N] [--size BYTES, at least 64K] [--direct]");
  printf("fsx: %s, seed %" PRIu64 ", %" PRIu64 " operations\n", options.path.c_str(), options.seed,
         options.ops);
  fflush(stdout);
  Load(options).run();
  puts("fsx: as it should be");
  return 0;
}
