// SPDX-License-Identifier: MIT
// Plain qcow2 files (docs/interop/qcow2.txt in QEMU): two levels of tables, both big-endian, say
// where in the file each cluster lies. They are read once, when the image is opened.
#include <algorithm>
#include <cstring>
#include <endian.h>

#include <fmt/format.h>

#include "verify/image.hpp"
#include "verify/raw_image.hpp"

namespace pv::verify {
namespace {

constexpr size_t k_header = 104;
constexpr uint64_t k_max_l1 = 32 << 20;   // bytes, as in QEMU
constexpr size_t k_max_runs = 1'000'000;  // 24 MB of memory
constexpr uint64_t k_offset_bits = 0x00fffffffffffe00ULL;
constexpr uint64_t k_compressed = 1ULL << 62;
constexpr uint64_t k_reads_zero = 1;  // version 3

// A piece of the disk that lies in one piece in the file.
struct Run {
  uint64_t at;      // on the disk
  uint64_t place;   // in the file
  uint64_t length;  // bytes
};

uint32_t be32_at(const char* bytes) {
  uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return be32toh(value);
}

uint64_t be64_at(const char* bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return be64toh(value);
}

// Reads the tables of one file.
class Tables {
 public:
  Tables(int fd, const std::string& name, uint64_t file_size)
      : fd_(fd), name_(name), file_size_(file_size) {}

  Result<> read() {
    TRY(read_header());
    std::vector<uint64_t> l1;
    TRY(read_table(l1_place_, l1_entries_, l1));
    const uint64_t covered = cluster_ * (cluster_ / 8);  // by one table of the second level
    std::vector<uint64_t> l2;
    uint64_t tables = 0;
    for (size_t i = 0; i < l1.size(); ++i) {
      const uint64_t place = l1[i] & k_offset_bits;
      if (place == 0) continue;
      // Each has a cluster of its own: a file that says otherwise would be read without end.
      if (++tables > file_size_ / cluster_) return damaged("its tables overlap");
      TRY(read_table(place, cluster_ / 8, l2));
      TRY(add(i * covered, l2));
    }
    return {};
  }

  uint64_t size() const { return size_; }
  std::vector<Run> take() { return std::move(runs_); }

 private:
  tl::unexpected<Error> damaged(const std::string& what) const {
    return fail(Code::invalid, fmt::format("image {} is damaged: {}", name_, what));
  }

  Result<> read_header() {
    char head[k_header] = {};
    TRY_ASSIGN(const size_t n, read_at(fd_, 0, head, sizeof head, name_));
    if (n < 72 || std::memcmp(head, "QFI\xfb", 4) != 0)
      return fail(Code::invalid, name_ + " is no qcow2 image");
    version_ = be32_at(head + 4);
    const uint32_t bits = be32_at(head + 20);
    const bool plain = be64_at(head + 8) == 0 && be32_at(head + 32) == 0 &&
                       (version_ == 2 || (version_ == 3 && be64_at(head + 72) == 0));
    if (!plain || bits < 9 || bits > 21)
      return fail(Code::unsupported, name_ + " is not a plain qcow2 image");
    cluster_ = 1ULL << bits;
    size_ = be64_at(head + 24);
    l1_place_ = be64_at(head + 40);
    const uint64_t covered = cluster_ * (cluster_ / 8);
    l1_entries_ = size_ / covered + (size_ % covered != 0 ? 1 : 0);
    if (l1_entries_ > be32_at(head + 36) || l1_entries_ > k_max_l1 / 8)
      return damaged("its first table is too small");
    return {};
  }

  Result<> read_table(uint64_t place, uint64_t entries, std::vector<uint64_t>& table) {
    table.resize(entries);
    if (place % cluster_ != 0 || place > file_size_ || entries * 8 > file_size_ - place)
      return damaged(fmt::format("a table at {} is not in the file", place));
    TRY_ASSIGN(const size_t n,
               read_at(fd_, place, reinterpret_cast<char*>(table.data()), entries * 8, name_));
    if (n < entries * 8) return damaged(fmt::format("a table at {} is cut off", place));
    for (uint64_t& entry : table) entry = be64toh(entry);
    return {};
  }

  Result<> add(uint64_t at, const std::vector<uint64_t>& l2) {
    for (const uint64_t entry : l2) {
      if (at >= size_) return {};
      const uint64_t length = std::min(cluster_, size_ - at);
      if ((entry & k_compressed) != 0)
        return fail(Code::unsupported, name_ + " has compressed clusters");
      const uint64_t place = entry & k_offset_bits;
      const bool zero = version_ == 3 && (entry & k_reads_zero) != 0;
      if (!zero && place != 0) {
        if (place % cluster_ != 0 || place >= file_size_)
          return damaged(fmt::format("the data of {} is not in the file", at));
        TRY(add_run({at, place, length}));
      }
      at += length;
    }
    return {};
  }

  Result<> add_run(const Run& run) {
    if (!runs_.empty()) {
      Run& last = runs_.back();
      if (last.at + last.length == run.at && last.place + last.length == run.place) {
        last.length += run.length;
        return {};
      }
    }
    if (runs_.size() == k_max_runs)
      return fail(Code::unsupported, name_ + " is in too many pieces");
    runs_.push_back(run);
    return {};
  }

  int fd_;
  const std::string& name_;
  uint64_t file_size_;
  uint32_t version_ = 0;
  uint64_t cluster_ = 0, size_ = 0, l1_place_ = 0, l1_entries_ = 0;
  std::vector<Run> runs_;
};

class Qcow2Image final : public Image {
 public:
  Qcow2Image(Fd fd, std::string name, const FileStamp& stamp, uint64_t size, std::vector<Run> runs)
      : fd_(std::move(fd)),
        name_(std::move(name)),
        stamp_(stamp),
        size_(size),
        runs_(std::move(runs)) {}

  uint64_t size() const override { return size_; }
  bool read_only() const override { return true; }

  Result<> read(uint64_t offset, char* data, size_t length) override {
    auto run = after(offset);
    while (length != 0) {
      const uint64_t next = run == runs_.end() ? UINT64_MAX : run->at;
      size_t n = 0;
      if (offset < next) {
        n = std::min<uint64_t>(length, next - offset);
        std::memset(data, 0, n);
      } else {
        n = std::min<uint64_t>(length, run->at + run->length - offset);
        TRY_ASSIGN(const size_t got,
                   read_at(fd_.get(), run->place + (offset - run->at), data, n, name_));
        std::memset(data + got, 0, n - got);  // the file may end within its last cluster
        if (offset + n == run->at + run->length) ++run;
      }
      offset += n;
      data += n;
      length -= n;
    }
    return {};
  }

  Result<> write(uint64_t, const char*, size_t) override {
    return fail(Code::read_only, name_ + " is open for reading");
  }
  Result<> flush() override { return fail(Code::read_only, name_ + " is open for reading"); }

  Result<> map(uint64_t offset, uint64_t length, std::vector<blk::Extent>& extents) override {
    const auto run = after(offset);
    if (run == runs_.end())
      extents.push_back({length, blk::k_hole | blk::k_zero});
    else if (offset < run->at)
      extents.push_back({std::min(length, run->at - offset), blk::k_hole | blk::k_zero});
    else
      extents.push_back({std::min(length, run->at + run->length - offset), 0});
    return {};
  }

  Result<> unchanged() const override { return stamp_.compare(fd_.get(), name_); }

 private:
  // The first run that ends after `offset`.
  std::vector<Run>::const_iterator after(uint64_t offset) const {
    return std::upper_bound(runs_.begin(), runs_.end(), offset,
                            [](uint64_t at, const Run& run) { return at < run.at + run.length; });
  }

  Fd fd_;
  std::string name_;
  FileStamp stamp_;
  uint64_t size_;
  std::vector<Run> runs_;  // by address
};

}  // namespace

Result<std::unique_ptr<Image>> make_qcow2_image(Fd fd, const std::string& name) {
  TRY_ASSIGN(const FileStamp stamp, FileStamp::of(fd.get(), name));
  if (!stamp.regular()) return fail(Code::unsupported, name + " is no regular file");
  Tables tables(fd.get(), name, stamp.file_size());
  TRY(tables.read());
  const uint64_t size = tables.size();
  return std::make_unique<Qcow2Image>(std::move(fd), name, stamp, size, tables.take());
}

}  // namespace pv::verify
