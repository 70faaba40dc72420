// SPDX-License-Identifier: MIT
// Which blocks an overlay holds: in memory what is true now, in the file what was true at the last
// commit. A commit is
//
//   copy changed pages ── data to disk (fdatasync) ── write the pages ── pages to disk (fdatasync)
//
// so that a page never speaks of data that a power cut could take away. Each page has two slots in
// the file, written in turn: one of them is whole whatever happens. Lives on the loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blk/cow/format.hpp"
#include "blk/cow/store.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

class CowMap {
 public:
  // Somebody who waits for a commit; his own, and untouched until `done` runs.
  struct Waiter {
    void* owner = nullptr;
    void (*done)(void* owner, int error) = nullptr;
    Waiter* next = nullptr;
  };

  // A blank file becomes the overlay that `fresh` describes.
  static Result<std::unique_ptr<CowMap>> create(std::unique_ptr<CowStore> store,
                                                const CowHeader& fresh);
  // Code::invalid, with the place, when the file is no overlay, is damaged or cut short.
  static Result<std::unique_ptr<CowMap>> open(std::unique_ptr<CowStore> store);
  ~CowMap();  // closes in order, if it can

  const CowHeader& header() const { return header_; }
  const CowLayout& layout() const { return layout_; }
  CowStore& store() { return *store_; }
  const CowStore& store() const { return *store_; }

  BlockState state(uint64_t block) const;
  // The first block in (from, end) whose state is another than that of `from`, or `end`.
  uint64_t run_end(uint64_t from, uint64_t end) const;
  void set(uint64_t from, uint64_t end, BlockState state);
  // Whether the file says of these blocks what is true.
  bool settled(uint64_t from, uint64_t end) const;

  // All that was completed before this call is on disk when the waiter is called.
  void commit(Waiter& waiter);
  // The same at once, with plain calls; nothing may be in flight.
  Result<> commit_now();
  // Header and file for a base that was accepted, or for another size. Nothing may be in flight.
  Result<> rebase(const BaseIdentity& base);
  // Makes `copy`, a copy of the file, an overlay that was closed in order and says what is true
  // now. Nothing may be in flight.
  Result<> seal(int copy) const;
  Result<> resize(uint64_t size);

  uint64_t data_blocks() const { return counts_[1]; }
  uint64_t zero_blocks() const { return counts_[2]; }
  uint64_t commits() const { return commits_; }

 private:
  struct Group {
    uint64_t sequence = 0;    // of the newest good slot
    uint8_t slot = 1;         // where that is; the other one is written next
    bool dirty = false;       // not as in the file, and not in the running commit
    bool committing = false;  // in the running commit
    unsigned char states[k_cow_states] = {};
  };
  struct Snapshot {
    CowMap* map;
    Group* group;
    Request request;
    iovec piece;
    char page[k_cow_page];
  };

  CowMap(std::unique_ptr<CowStore> store, const CowHeader& header);
  Result<> load();
  Result<> load_group(uint64_t index);
  bool mask_tail();
  Result<> write_header();
  Group& group(uint64_t index);
  void count(Group& group, int sign);
  void change(Group& group, uint64_t index);
  Result<> write_page(uint64_t index);

  void start_commit();
  bool has_nothing_to_keep() const { return store_->temporary() || store_->read_only(); }
  void sync(void (*done)(Request&, int));
  void write_pages(int error);
  void pages_written(int error);
  void finish_commit(int error);

  std::unique_ptr<CowStore> store_;
  CowHeader header_;
  CowLayout layout_;
  std::vector<std::unique_ptr<Group>> groups_;  // null: all absent
  std::vector<uint64_t> dirty_;                 // indices, each once
  uint64_t counts_[4] = {};

  Waiter* waiting_ = nullptr;  // for the next commit
  Waiter* served_ = nullptr;   // by the running one
  bool running_ = false;
  Request sync_;
  std::vector<std::unique_ptr<Snapshot>> snapshots_;  // the first taken_ are in the running commit
  std::vector<uint64_t> taken_;                       // their groups
  size_t unwritten_ = 0;
  int error_ = 0;
  int lost_ = 0;  // errno of a sync that failed: what it was to save may be gone for ever
  bool aborted_ = false;
  uint64_t commits_ = 0;
};

}  // namespace pv::blk
