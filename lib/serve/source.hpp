// SPDX-License-Identifier: MIT
// From a spec to the bottom of a stack, and to whatever further images its layers ask for: opens,
// locks or makes them. Lives in the server, and outlives the stack that stands on it.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/disk.hpp"
#include "serve/spec.hpp"
#include "serve/storage_daemon.hpp"

namespace pv::serve {

class Source final : public blk::Opener {
 public:
  // `dir` is the object's directory: scratch files and copies of templates are made there.
  Source(std::string dir, Loop& loop) : dir_(std::move(dir)), loop_(loop) {}
  ~Source() override;

  // The bottom of the stack. Fills in spec.format.
  Result<std::unique_ptr<blk::Disk>> open(Spec& spec);

  // The same disk, answering "base.identity" for the file that holds its data.
  std::unique_ptr<blk::Disk> identified(std::unique_ptr<blk::Disk> bottom) const;

  Result<std::unique_ptr<blk::Disk>> image(const std::string& path, bool read_only) override;
  Result<blk::AsyncIo*> async_io() override;

  // The file that holds the data; "" for memory.
  const std::string& image_path() const { return image_path_; }
  // The qemu-storage-daemons, one for each image in a format other than raw.
  std::deque<StorageDaemon>& daemons() { return daemons_; }

 private:
  Result<std::unique_ptr<blk::Disk>> open_file(Fd fd, const std::string& path,
                                               const std::string& format, const Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_raw(Fd fd, const std::string& path, const Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_formatted(const std::string& path,
                                                    const std::string& format, const Spec& spec);

  std::string dir_;
  Loop& loop_;
  std::string image_path_;
  uint32_t sector_size_ = 512;
  uint32_t physical_sector_size_ = 512;
  std::unique_ptr<blk::AsyncIo> io_;
  std::deque<StorageDaemon> daemons_;
};

}  // namespace pv::serve
