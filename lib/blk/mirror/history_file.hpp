// SPDX-License-Identifier: MIT
// What every block of a disk should hold, in a file that outlives the process: a checksum, the one
// before it, and a generation that counts its changes. 24 bytes for a block of 4 KiB, read and
// written where they are needed; nothing of it is kept in memory, and blocks nobody has written
// take no room.
//
// A change writes its entries twice: before the disk is touched, both checksums being allowed, and
// when it is done. So a process that is killed in between leaves an entry that says that the block
// may hold either. After an end of the machine, which loses what was in the page cache, nothing of
// it is believed (forgotten()). Owned by one layer, on its thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace pv {
class Loop;
}

namespace pv::blk {

class Disk;

class HistoryFile {
 public:
  static constexpr uint64_t k_block = 4096;

  struct Entry {
    uint64_t checksum = 0;
    uint64_t before = 0;
    uint32_t generation = 0;  // 0: nothing is known of the block
    uint32_t flags = 0;       // in the file with a check of the entry in the upper 24 bits
  };
  static_assert(sizeof(Entry) == 24);
  enum Flag : uint32_t {
    k_either = 1,   // a change is, or was, under way: `before` is as good
    k_unknown = 2,  // something was done to it that leaves its content open
  };

  // Makes the file, or goes on with one that is there. Code::incompatible for one of another disk
  // or size, Code::invalid for what is no such file or is damaged.
  static Result<HistoryFile> open(const std::string& path, uint64_t disk_size);
  HistoryFile(HistoryFile&&) = default;
  HistoryFile& operator=(HistoryFile&&) = default;
  ~HistoryFile();

  // `count` entries from block `first` on; 0 or an errno. One that is damaged is as one of a block
  // of which nothing is known.
  int read(uint64_t first, uint64_t count, std::vector<Entry>& entries);
  uint64_t damaged() const { return damaged_; }
  // Up to `count` blocks from all over the disk that have one certain checksum, and not this one.
  using Known = std::pair<uint64_t, Entry>;
  std::vector<Known> sample(size_t count, uint64_t but);
  const std::string& path() const { return path_; }
  int write(uint64_t first, const std::vector<Entry>& entries);
  int sync();
  // An entry could not be written or read: whoever opens the file next is told (Code::invalid).
  void set_broken(int error);
  Result<> resize(uint64_t disk_size);
  // The machine went down while it was in use: it begins anew.
  bool forgotten() const { return forgotten_; }

 private:
  HistoryFile() = default;
  Result<> begin(uint64_t disk_size);
  Result<> take_up(uint64_t disk_size);
  Result<> write_head(bool in_use);
  std::vector<Known> each_step(uint64_t step, size_t count, uint64_t but);

  Fd fd_;
  std::string path_;
  uint64_t disk_size_ = 0;
  bool forgotten_ = false;
  uint32_t broken_ = 0;
  uint64_t damaged_ = 0;
  std::vector<Entry> stamped_;
};

// Code::incompatible when what the history knows is nearly nowhere on the disk. Drives `loop`,
// where there is one, until it knows.
Result<> check_same_disk(HistoryFile& file, Disk& disk, Loop* loop);

}  // namespace pv::blk
