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

// What a layer does with the data of requests that pass it. One that reads it more than once,
// changes it in place or keeps where it lies gets a private copy of what is shared with a guest
// (blk/private.hpp).
enum class Sight : uint8_t {
  passes,      // hands it on, or reads or fills each byte once
  looks,       // at the data of every request
  by_request,  // Disk::looks_at() says
};

struct LayerRow {
  const char* name;
  const char* help;
  std::span<const ParamSpec> params;
  Sight sight;
  MakeLayer make;
  unsigned needs = 0;  // BaseNeed
  // Layers that may not stand further out, and why.
  std::span<const char* const> never_below = {};
  const char* never_below_why = "";
};

std::span<const LayerRow> layers();

// Wraps `bottom` in the named layers, the first one outermost, those that look at data in a private
// copy of what is shared, and all in the checked wrapper. With
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
