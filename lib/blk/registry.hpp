// SPDX-License-Identifier: MIT
// The table of layers. A new layer is one file under layer/ and one line in registry.cpp.
#pragma once

#include <memory>
#include <span>

#include "blk/disk.hpp"
#include "blk/params.hpp"

namespace pv::blk {

using MakeLayer = Result<std::unique_ptr<Disk>> (*)(std::unique_ptr<Disk> lower,
                                                    const LayerSpec& spec, const Env& env);

// What a layer asks of the back end below it.
enum BaseNeed : unsigned {
  k_base_identity = 1,                     // the command {"op":"base.identity"}
  k_base_read_only = 2 | k_base_identity,  // to be opened for reading: nothing is ever written
};

struct LayerRow {
  const char* name;
  const char* help;
  std::span<const ParamSpec> params;
  MakeLayer make;
  // Layers that may not stand further out, and why.
  std::span<const char* const> never_below = {};
  const char* never_below_why = "";
  unsigned needs = 0;
};

std::span<const LayerRow> layers();

// Wraps `bottom` in the named layers, the first one outermost, and in the checked wrapper. With
// `audit` every layer gets the audited wrapper (tests). Code::usage for an unknown layer or key.
Result<std::unique_ptr<Disk>> build_stack(std::unique_ptr<Disk> bottom,
                                          std::span<const LayerSpec> outermost_first,
                                          const Env& env, bool audit = false);

// Code::usage when a layer or one of its keys is unknown, or the order cannot work; nothing is
// built.
Result<> check_layers(std::span<const LayerSpec> outermost_first);

// Whether one of the layers has this need, all of it.
bool base_needs(std::span<const LayerSpec> layers, unsigned need);

// Makes the values of path parameters absolute.
void absolute_paths(LayerSpec& layer);

}  // namespace pv::blk
