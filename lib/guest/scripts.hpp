// SPDX-License-Identifier: MIT
// The guest's own programs: its first process, the shutdown command that the agent calls, the
// runner of commands (runner/pv-runner.cpp), and the few files of /etc. They are part of the
// image's key, so a change of them makes a new image.
#pragma once

#include <string_view>

namespace pv::guest {

struct GuestText {
  std::string_view path;
  unsigned mode;
  std::string_view text;
};

constexpr std::string_view k_init_path = "init";

// Null-terminated by a row with an empty path.
extern const GuestText k_guest_texts[];

}  // namespace pv::guest
