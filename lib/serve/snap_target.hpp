// SPDX-License-Identifier: MIT
// Where a disk server saves its stack to: a directory, the files that the walk down the stack asks
// for in it, and what a manifest has to say of them. Owned by serve/snap.hpp for one snapshot.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "blk/params.hpp"
#include "blk/state.hpp"
#include "serve/snap_copy.hpp"
#include "serve/spec.hpp"

namespace pv::serve {

constexpr const char* k_snap_data = "data";
constexpr const char* k_snap_overlay = "overlay";
constexpr const char* k_snap_state = "state.json";
constexpr const char* k_snap_records = "state.bin";

class SnapTarget final : public blk::StateOut {
 public:
  // Code::invalid unless `dir` is an empty directory of ours. `closing`: files that belong to the
  // server alone may become the snapshot's, and must then not be written any more.
  static Result<std::unique_ptr<SnapTarget>> make(const std::string& dir, const Spec& spec,
                                                  bool closing, Loop& loop);
  ~SnapTarget() override;

  // After the walk: copies what it has asked for. `done` is not called when this is gone before.
  Result<> write_state();
  void copy(SnapCopy::Done done);
  // Everything that is there: {"content","states","files"}.
  Result<json> describe() const;

  // Files that are the server's and the snapshot's at once become two.
  Result<> part();
  bool shares() const;

  Result<bool> overlay(Overlay overlay) override;
  bool in_base() const override { return in_base_; }
  Result<> content(blk::Disk& disk, int fd) override;

 private:
  struct Job {
    std::string name;
    blk::Disk* disk = nullptr;
    int fd = -1;
    bool ours = false;  // the file is nobody else's
    std::function<Result<>(int)> seal;
    bool linked = false;
  };
  SnapTarget(std::string dir, const Spec& spec, bool closing, Loop& loop, Fd records);
  Result<Fd> create(const std::string& name) const;
  void next(SnapCopy::Done done);
  void copied(Job& job, Fd to, Result<> result, const SnapCopy::Done& done);
  Result<json> base() const;

  std::string dir_;
  const Spec& spec_;
  bool closing_;
  Loop& loop_;
  Fd records_;
  std::vector<blk::LayerSpec> layers_;
  std::vector<size_t> cows_;  // which of the layers are overlays
  size_t cows_seen_ = 0;
  bool in_base_ = false;
  std::vector<Job> jobs_;
  size_t job_ = 0;
  std::shared_ptr<SnapCopy> copy_;
  std::vector<std::pair<size_t, std::string>> overlays_;  // layer, file
  json states_, state_hash_;
};

// Whether a source goes when its disk does, so that no snapshot can stand on it.
bool is_private_source(const Spec& spec);
// How many of the layers, from the outermost on, stand on what a snapshot has as its content.
size_t layers_above(const std::vector<blk::LayerSpec>& layers);

}  // namespace pv::serve
