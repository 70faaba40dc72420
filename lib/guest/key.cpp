// SPDX-License-Identifier: MIT
#include "guest/key.hpp"

#include <algorithm>
#include <sys/stat.h>

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <cerrno>
#include <xxhash.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "guest/cpio.hpp"
#include "guest/scripts.hpp"

namespace pv::guest {
namespace {

// Raised when the layout of an image changes in a way that no input of the key shows.
constexpr const char* k_recipe_version = "5";
constexpr size_t k_max_user_file = size_t{1} << 30;

// Every item with its length, so that no two lists run together to the same bytes.
void add(std::string& text, std::string_view item) {
  text += fmt::format("{}:", item.size());
  text += item;
}

}  // namespace

std::string content_hash(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string image_key(const Recipe& recipe) {
  std::string text;
  add(text, k_recipe_version);
  for (const GuestText* each = k_guest_texts; !each->path.empty(); ++each) {
    add(text, each->path);
    add(text, each->text);
  }
  add(text, "sources");
  for (const std::string& source : recipe.sources) add(text, source);
  add(text, "modules");
  std::vector<std::string> modules = recipe.modules;
  std::sort(modules.begin(), modules.end());
  modules.erase(std::unique(modules.begin(), modules.end()), modules.end());
  for (const std::string& module : modules) add(text, module);
  add(text, "files");
  for (const UserFile& file : recipe.files) {
    add(text, file.dest);
    add(text, fmt::format("{:o}", file.mode));
    add(text, content_hash(file.data));
  }
  return content_hash(text);
}

Result<std::vector<UserFile>> load_user_files(const std::vector<std::string>& specs) {
  std::vector<UserFile> files;
  for (const std::string& spec : specs) {
    const size_t equals = spec.find('=');
    if (equals == std::string::npos || equals + 1 == spec.size() || spec[0] != '/')
      return fail(Code::usage, fmt::format("--file '{}': write DEST=SRC, DEST an absolute path in "
                                           "the guest",
                                           printable(spec)));
    UserFile file;
    TRY_ASSIGN(file.dest, clean_guest_path(spec.substr(0, equals)));
    const std::string from = spec.substr(equals + 1);
    struct stat st {};
    if (stat(from.c_str(), &st) < 0) return fail_errno("--file: cannot read " + from, errno);
    if (!S_ISREG(st.st_mode))
      return fail(Code::usage, fmt::format("--file: {} is not a regular file", from));
    file.mode = (st.st_mode & 0111) != 0 ? 0755 : 0644;
    TRY_ASSIGN(file.data, read_file(from, k_max_user_file));
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace pv::guest
