// SPDX-License-Identifier: MIT
#include "guest/libraries.hpp"

#include <optional>
#include <set>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "guest/elf.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_file = size_t{256} << 20;
constexpr size_t k_max_libraries = 256;
constexpr const char* k_folders[] = {"/lib/x86_64-linux-gnu",
                                     "/usr/lib/x86_64-linux-gnu",
                                     "/lib64",
                                     "/usr/lib64",
                                     "/lib",
                                     "/usr/lib"};

std::optional<std::string> find_library(const std::string& root, const std::string& soname) {
  for (const char* folder : k_folders) {
    std::string path = fmt::format("{}{}/{}", root, folder, soname);
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return std::nullopt;
}

Result<ElfInfo> read_info(const std::string& path) {
  TRY_ASSIGN(const std::string bytes, read_file(path, k_max_file));
  auto info = read_elf(bytes);
  if (!info) return fail(info.error().code, fmt::format("{}: {}", path, info.error().message));
  return info;
}

}  // namespace

Result<Libraries> close_libraries(const std::string& root, const std::string& program) {
  Libraries result;
  TRY_ASSIGN(const ElfInfo info, read_info(program));
  result.interpreter = info.interpreter;
  std::vector<std::string> queue = info.needed;
  if (!info.interpreter.empty())
    queue.push_back(info.interpreter.substr(info.interpreter.rfind('/') + 1));
  std::set<std::string> seen(queue.begin(), queue.end());
  for (size_t i = 0; i < queue.size(); ++i) {
    if (i >= k_max_libraries) return fail(Code::invalid, program + ": too many libraries");
    const std::string soname = queue[i];
    const auto path = find_library(root, soname);
    if (!path)
      return fail(Code::unavailable,
                  fmt::format("{} needs {}, which was not found", program, soname));
    TRY_ASSIGN(const ElfInfo library, read_info(*path));
    for (const std::string& each : library.needed)
      if (seen.insert(each).second) queue.push_back(each);
    result.libraries.push_back({soname, *path});
  }
  return result;
}

}  // namespace pv::guest
