// SPDX-License-Identifier: MIT
// Files that a VM gets at boot: `--file`, and `files` of a profile. Here is what they are called,
// where they come from and how the VM remembers them; how they get in is initrd_files.hpp's matter
// and, for a guest that boots from a disk, guest_setup.hpp's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "guest/key.hpp"

namespace pv::vm {

constexpr uint32_t k_max_mode = 07777;

struct GuestFile {
  std::string dest;              // in the guest: absolute, clean
  std::string source;            // on the host: absolute; "" when `text` is the content
  std::string text;              // any bytes
  std::optional<uint32_t> mode;  // nullopt: the source's; of a text 0644, 0755 with #!
};

// "/a/b" for "/a//./b"; Code::usage for what is not absolute, has `..` or control characters.
// `what` starts the message.
Result<std::string> guest_dest(std::string_view what, const std::string& dest);

// DEST=SRC or DEST:=TEXT.
Result<GuestFile> parse_file_flag(const std::string& word);

// Octal digits; Code::usage for others and for more than 7777.
Result<uint32_t> parse_mode(std::string_view what, std::string_view text);

// Adds a file; one of the same DEST is replaced.
void lay_over(std::vector<GuestFile>& files, GuestFile file);

// The sources looked at, without reading them. Code::system or Code::invalid names field and path.
Result<> check_files(const std::vector<GuestFile>& files);
// The content, in memory.
Result<std::vector<guest::UserFile>> load_files(const std::vector<GuestFile>& files);

json files_to_json(const std::vector<GuestFile>& files);
std::vector<GuestFile> files_from_json(const json& list);

}  // namespace pv::vm
