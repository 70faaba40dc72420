// SPDX-License-Identifier: MIT
// From a spec to the bottom of a stack, and to whatever further images its layers ask for: opens,
// locks or makes them. Lives in the server, and outlives the stack that stands on it.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/json_fwd.hpp"
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

  Result<std::unique_ptr<blk::Disk>> image(const std::string& path, bool read_only,
                                           const std::string& key_file) override;
  Result<blk::AsyncIo*> async_io() override;

  // The file that holds the data; "" where none does.
  const std::string& image_path() const { return image_path_; }

 private:
  Result<Fd> copy_template(Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_image(Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_file(Fd fd, const std::string& path, Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_raw(Fd fd, const std::string& path, const Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_uri(Spec& spec);
  Result<std::unique_ptr<blk::Disk>> open_formatted(json file, Spec& spec, const std::string& name);
  Result<std::unique_ptr<blk::Disk>> open_daemon(const json& node, const Spec& spec,
                                                 const std::string& name);

  std::string dir_;
  Loop& loop_;
  std::string image_path_;
  uint32_t sector_size_ = 512;
  uint32_t physical_sector_size_ = 512;
  std::unique_ptr<blk::AsyncIo> io_;
  std::deque<StorageDaemon> daemons_;  // one for each image that QEMU opens
};

}  // namespace pv::serve
