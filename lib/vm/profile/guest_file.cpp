// SPDX-License-Identifier: MIT
#include "vm/profile/guest_file.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "guest/cpio.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_file = size_t{1} << 30;
constexpr size_t k_max_total = size_t{2} << 30;
constexpr uint32_t k_text_mode = 0644;
constexpr uint32_t k_script_mode = 0755;

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

Result<struct stat> look_at(const GuestFile& file) {
  struct stat st {};
  const char* problem = nullptr;
  if (stat(file.source.c_str(), &st) < 0)
    problem = strerrordesc_np(errno);
  else if (!S_ISREG(st.st_mode))
    problem = S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file";
  else if (access(file.source.c_str(), R_OK) < 0)
    problem = strerrordesc_np(errno);
  if (!problem) return st;
  const Error error(Code::invalid, fmt::format("file {}: {}: {}", file.dest, file.source, problem));
  return fail(error.with("field", "files").with("path", file.source));
}

}  // namespace

Result<std::string> guest_dest(std::string_view what, const std::string& dest) {
  if (dest.empty() || dest[0] != '/')
    return fail(Code::usage, fmt::format("{}: '{}' is not an absolute path in the guest", what,
                                         printable(dest)));
  if (has_control(dest) || !is_utf8(dest))
    return fail(Code::usage, fmt::format("{}: '{}' has control characters or is not UTF-8", what,
                                         printable(dest)));
  if (dest.back() == '/')
    return fail(Code::usage, fmt::format("{}: '{}' names a directory", what, dest));
  auto clean = guest::clean_guest_path(dest);
  if (!clean) return fail(Code::usage, fmt::format("{}: {}", what, clean.error().message));
  return "/" + *clean;
}

Result<GuestFile> parse_file_flag(const std::string& word) {
  const size_t equals = word.find('=');
  const bool is_text = equals != std::string::npos && equals > 0 && word[equals - 1] == ':';
  if (equals == std::string::npos || (!is_text && equals + 1 == word.size()))
    return fail(Code::usage,
                fmt::format("--file '{}': write DEST=SRC or DEST:=TEXT", printable(word)));
  GuestFile file;
  TRY_ASSIGN(file.dest, guest_dest("--file", word.substr(0, is_text ? equals - 1 : equals)));
  if (is_text)
    file.text = word.substr(equals + 1);
  else
    file.source = absolute_path(word.substr(equals + 1));
  return file;
}

Result<uint32_t> parse_mode(std::string_view what, std::string_view text) {
  uint32_t mode = 0;
  bool good = !text.empty() && text.size() <= 5;
  for (const char c : text) {
    good = good && c >= '0' && c <= '7';
    if (good) mode = mode * 8 + static_cast<uint32_t>(c - '0');
  }
  if (!good || mode > k_max_mode)
    return fail(Code::usage,
                fmt::format("{}: '{}' is not a file mode such as 0755", what, printable(text)));
  return mode;
}

void lay_over(std::vector<GuestFile>& files, GuestFile file) {
  for (GuestFile& each : files) {
    if (each.dest != file.dest) continue;
    each = std::move(file);
    return;
  }
  files.push_back(std::move(file));
}

Result<> check_files(const std::vector<GuestFile>& files) {
  for (const GuestFile& file : files)
    if (!file.source.empty()) TRY(look_at(file));
  return {};
}

Result<std::vector<guest::UserFile>> load_files(const std::vector<GuestFile>& files) {
  std::vector<guest::UserFile> loaded;
  size_t total = 0;
  for (const GuestFile& file : files) {
    guest::UserFile out;
    out.dest = file.dest.substr(1);
    out.mode = file.mode.value_or(file.text.rfind("#!", 0) == 0 ? k_script_mode : k_text_mode);
    if (file.source.empty()) {
      out.data = file.text;
    } else {
      TRY_ASSIGN(const struct stat st, look_at(file));
      if (!file.mode) out.mode = st.st_mode & k_max_mode;
      TRY_ASSIGN(out.data, read_file(file.source, k_max_file));
    }
    total += out.data.size();
    if (total > k_max_total)
      return fail(Code::invalid, "the files for the guest have more than 2 GiB together");
    loaded.push_back(std::move(out));
  }
  return loaded;
}

json files_to_json(const std::vector<GuestFile>& files) {
  json list = json::array();
  for (const GuestFile& file : files) {
    json object = {{"dest", file.dest}};
    if (file.source.empty())
      set_text(object, "text", file.text);
    else
      object["source"] = file.source;
    if (file.mode) object["mode"] = fmt::format("{:04o}", *file.mode);
    list.push_back(std::move(object));
  }
  return list;
}

std::vector<GuestFile> files_from_json(const json& list) {
  std::vector<GuestFile> files;
  if (!list.is_array()) return files;
  for (const json& object : list) {
    GuestFile file;
    auto dest = guest_dest("files", get_string(object, "dest"));
    if (!dest) continue;
    file.dest = *dest;
    file.source = get_string(object, "source");
    file.text = get_string(object, "text");
    if (auto bytes = base64_decode(get_string(object, "text_b64")); bytes && !bytes->empty())
      file.text = *bytes;
    if (auto mode = parse_mode("mode", get_string(object, "mode"))) file.mode = *mode;
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace pv::vm
