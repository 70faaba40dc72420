// SPDX-License-Identifier: MIT
// The precompiled header: what nearly every file needs, so that a clean build stays short. Sources
// include what they use all the same; this file only makes those includes cheap.
#ifndef PV_BASE_PCH_HPP
#define PV_BASE_PCH_HPP

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tl/expected.hpp>

// Instantiated once, in json.cpp: every source would otherwise compile all of it again.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

#endif
