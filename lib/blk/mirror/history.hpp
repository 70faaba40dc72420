// SPDX-License-Identifier: MIT
// Compares a disk with what was written to it before: a checksum of every block of 4 KiB is kept in
// a file (history_file.hpp), and what is read must have it. So a write that was dropped, torn or
// put elsewhere is found when its place is read for the first time, without a second disk and also
// after the server was started anew. What is not known is learned when it is read. Where the file
// fails once, nothing is compared any more, and that is told. Owned by its stack, on the loop's
// thread like every layer.
//
// history.cpp is the way of a request, history_look.cpp the comparison and what is written down.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blk/child.hpp"
#include "blk/mirror/explain.hpp"
#include "blk/mirror/history_file.hpp"
#include "blk/mirror/range_lock.hpp"
#include "blk/mirror/scrub.hpp"
#include "blk/mirror/watch.hpp"
#include "blk/mirror/writes.hpp"

namespace pv::blk {

class History final : public Forward {
 public:
  History(std::unique_ptr<Disk> lower, HistoryFile file, const Env& env,
          const Watch::Options& options, uint64_t scrub_bytes_per_s);

  void submit(Request& request) override;
  Result<json> control(const json& request) override;
  Result<> resize(uint64_t size) override;
  void inspect(json& out) const override;
  Result<> save_state(StateOut& out) override;

 private:
  using Entry = HistoryFile::Entry;
  static constexpr uint64_t k_block = HistoryFile::k_block;
  struct Flight {
    History* history = nullptr;
    Request* parent = nullptr;
    RangeLock::Place place;  // in whole blocks
    Watch::Asker asker;
    Request child;
    Injected injected;
    std::vector<char> buffer;  // of the whole blocks, where the request has less
    iovec piece{};
    std::vector<Entry> entries;
    uint64_t number = 0, serial = 0;
    bool merging = false;  // a write that has to read its blocks first
  };

  // history.cpp
  uint64_t first_block(const Flight& flight) const { return flight.place.begin / k_block; }
  uint64_t block_count(const Flight& flight) const;
  uint64_t bytes_of_block(uint64_t block) const;
  void start(Flight& flight);
  void read_blocks(Flight& flight);
  void write(Flight& flight);
  void clear(Flight& flight);
  void pass(Flight& flight);
  void done(Flight& flight, int error);
  void changed(Flight& flight, int error);
  int mark(uint64_t first, uint64_t count, uint32_t flags, const uint64_t* checksum);
  void finish(Flight& flight, int error);
  void give_up(int error);

  // history_look.cpp
  const char* bytes_of(Flight& flight, std::string& gathered) const;
  bool look(Flight& flight);
  bool fits(Entry& entry, uint64_t checksum, bool& changed) const;
  Explanation explain_block(uint64_t block, const char* bytes, const Entry& entry) const;
  Explanation explain_by_sectors(uint64_t offset, const char* bytes, uint64_t size) const;
  std::vector<Mishap> explain_blocks(const Flight& flight, const char* all,
                                     const std::vector<uint64_t>& bad) const;
  json shown_mishap(const Flight& flight, const char* all, const Mishap& mishap) const;
  void record_mismatch(Flight& flight, const char* all, const std::vector<uint64_t>& bad,
                       bool waits);

  Env env_;
  HistoryFile file_;
  Watch watch_;
  Writes writes_;
  RangeLock lock_;
  Scrub scrub_;
  Pool<Flight> flights_;
  uint64_t requests_ = 0, checked_bytes_ = 0, learned_ = 0;
};

}  // namespace pv::blk
