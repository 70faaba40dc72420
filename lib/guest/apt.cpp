// SPDX-License-Identifier: MIT
#include "guest/apt.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <iterator>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "guest/cache.hpp"

namespace pv::guest {
namespace {

constexpr const char* k_system_lists = "/var/lib/apt/lists";

bool has_lists(const std::string& dir) {
  for (const std::string& name : list_dir(dir))
    if (name.find("_Packages") != std::string::npos &&
        access((dir + "/" + name).c_str(), R_OK) == 0)
      return true;
  return false;
}

// Nanoseconds; 0 for what is not there.
int64_t modified(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) < 0) return 0;
  return st.st_mtim.tv_sec * int64_t{k_ns_per_s} + st.st_mtim.tv_nsec;
}

// apt's first error or, where it has only warnings, its first warning: what follows sums up.
std::string reason(const Output& output) {
  for (const std::string_view mark : {"E: ", "W: "})
    for (const std::string& line : split(output.err, '\n'))
      if (line.compare(0, mark.size(), mark) == 0) return printable(line.substr(mark.size()));
  return output.status.describe();
}

Result<Output> run_apt(const std::vector<std::string>& argv, const Deadline& deadline) {
  auto output = run_program(argv, deadline);
  if (output && output->status.code == 127)
    return fail(Code::unavailable, "apt is not installed: packages cannot be fetched");
  return output;
}

}  // namespace

Apt::Apt(std::string state_dir) : state_dir_(std::move(state_dir)) {
  // Private lists are made by refresh(): they count while they are the newer ones.
  own_lists_ = geteuid() != 0 && (!has_lists(k_system_lists) ||
                                  modified(state_dir_ + "/state/lists") > modified(k_system_lists));
}

std::string Apt::lists_dir() const {
  return own_lists_ ? state_dir_ + "/state/lists" : k_system_lists;
}

std::string Apt::stamp() const {
  if (!has_lists(lists_dir())) return {};
  return fmt::format("{}{}", own_lists_ ? "own:" : "", modified(lists_dir()));
}

std::vector<std::string> Apt::command(const std::string& dir,
                                      std::vector<std::string> words) const {
  // env(1) sets the folder, which is where `apt-get download` puts its files.
  std::vector<std::string> argv = {"env", "-C", dir, "LC_ALL=C"};
  argv.push_back(std::move(words.front()));
  // As root, apt would give up its rights and then fail to write to a folder of mode 0700.
  if (geteuid() == 0) {
    argv.insert(argv.end(), {"-o", "APT::Sandbox::User=root"});
  } else {
    // The machine's cache can't be written: without one of our own apt reads all lists every time.
    argv.insert(argv.end(), {"-o", "Dir::Cache=" + state_dir_ + "/cache"});
    if (own_lists_) argv.insert(argv.end(), {"-o", "Dir::State=" + state_dir_ + "/state"});
  }
  argv.insert(argv.end(), std::make_move_iterator(words.begin() + 1),
              std::make_move_iterator(words.end()));
  return argv;
}

Result<DependencyGraph> Apt::dependencies(const std::vector<std::string>& roots,
                                          const Deadline& deadline) const {
  TRY(make_dirs(state_dir_ + "/cache/archives/partial"));
  std::vector<std::string> words = {"apt-cache", "depends", "--important", "--recurse"};
  words.insert(words.end(), roots.begin(), roots.end());
  TRY_ASSIGN(const Output output, run_apt(command(state_dir_, std::move(words)), deadline));
  return parse_dependencies(output.out);
}

Result<std::vector<Package>> Apt::candidates(const std::vector<std::string>& names,
                                             const Deadline& deadline) const {
  std::vector<std::string> words = {"apt-get", "download", "--print-uris", "-qq"};
  words.insert(words.end(), names.begin(), names.end());
  TRY_ASSIGN(const Output output, run_apt(command(state_dir_, std::move(words)), deadline));
  const std::vector<Package> found = parse_uris(output.out);
  std::vector<Package> ordered;
  for (const std::string& name : names) {
    const auto match = std::find_if(found.begin(), found.end(),
                                    [&](const Package& package) { return package.name == name; });
    if (match == found.end())
      return fail(Code::unavailable, fmt::format("package {}: {}", name, reason(output)));
    ordered.push_back(*match);
  }
  return ordered;
}

Result<> Apt::download(const std::vector<Package>& packages, const std::string& dir,
                       const Deadline& deadline) const {
  std::vector<std::string> words = {"apt-get", "download", "-q"};
  for (const Package& package : packages) words.push_back(package.name);
  TRY_ASSIGN(const Output output, run_apt(command(dir, std::move(words)), deadline));
  if (output.status.code == 0 && output.status.signal == 0) return {};
  constexpr std::string_view k_full = "No space left on device";
  if (output.err.find(k_full) != std::string::npos)
    return fail(
        Error(Code::system, fmt::format("cannot write packages to {}: {}", dir, k_full), ENOSPC));
  return fail(Code::unavailable, "cannot download packages: " + reason(output));
}

Result<> Apt::refresh(const Deadline& deadline) {
  if (geteuid() != 0) {
    own_lists_ = true;
    TRY(make_dirs(state_dir_ + "/state/lists/partial"));
  }
  TRY(make_dirs(state_dir_ + "/cache/archives/partial"));
  TRY_ASSIGN(const Output output,
             run_apt(command(state_dir_, {"apt-get", "update", "-q"}), deadline));
  // apt calls it a success when nothing arrived, and an error when only some did not: what counts
  // is that there are lists.
  if (has_lists(lists_dir())) return {};
  return fail(Code::unavailable, "cannot get package lists: " + reason(output));
}

// "name" in column 0, then indented " |Depends: a", "  Depends: b", "  PreDepends: <virtual>".
DependencyGraph parse_dependencies(std::string_view text) {
  DependencyGraph graph;
  std::vector<std::string>* current = nullptr;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty()) continue;
    if (line[0] != ' ') {
      current = &graph[line];
      continue;
    }
    const size_t colon = line.find("epends: ");
    if (!current || colon == std::string::npos) continue;
    std::string name = line.substr(colon + strlen("epends: "));
    if (!name.empty() && name[0] != '<') current->push_back(std::move(name));
  }
  return graph;
}

// "'URI' FILE SIZE HASH" per line.
std::vector<Package> parse_uris(std::string_view text) {
  std::vector<Package> packages;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty() || line[0] != '\'') continue;
    const std::vector<std::string> fields = split(line, ' ');
    if (fields.size() < 3) continue;
    Package package;
    package.file = fields[1];
    package.name = package.file.substr(0, package.file.find('_'));
    const char* end = fields[2].data() + fields[2].size();
    const auto [stop, problem] = std::from_chars(fields[2].data(), end, package.size_bytes);
    // The file name is used as a path below.
    if (problem != std::errc{} || stop != end || package.file.find('/') != std::string::npos)
      continue;
    packages.push_back(std::move(package));
  }
  return packages;
}

}  // namespace pv::guest
