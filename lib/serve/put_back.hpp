// SPDX-License-Identifier: MIT
// A disk's saved content back to where it came from: a raw image, or the file of an overlay. The
// place has the old content or the saved one, whatever happens meanwhile; nobody may have it open.
#pragma once

#include <string>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "serve/spec.hpp"

namespace pv::serve {

// `spec` is the original disk's. Code::unsupported for content that came from elsewhere.
Result<> can_be_put_back(const Spec& spec, const json& manifest);
// Code::in_use while the place is in use.
Result<> put_back(const Spec& spec, const json& manifest, const std::string& dir);

}  // namespace pv::serve
