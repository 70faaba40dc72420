// SPDX-License-Identifier: MIT
#include "guest/modules.hpp"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "guest/decompress.hpp"
#include "guest/elf.hpp"
#include "guest/strip.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_module = size_t{256} << 20;
constexpr size_t k_max_list = size_t{16} << 20;
constexpr size_t k_max_depth = 64;

bool is_module_file(const std::string& name) {
  for (const char* ending : {".ko", ".ko.xz", ".ko.zst", ".ko.gz"})
    if (name.size() > strlen(ending) &&
        name.compare(name.size() - strlen(ending), std::string::npos, ending) == 0)
      return true;
  return false;
}

std::vector<std::string> words(std::string_view text, char separator) {
  std::vector<std::string> found;
  for (std::string& word : split(text, separator))
    if (!word.empty()) found.push_back(std::move(word));
  return found;
}

// Levenshtein distance.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

// Depth first, so that a module comes after all it needs.
class Closer {
 public:
  Closer(const ModuleTree& tree, const Deadline& deadline) : tree_(tree), deadline_(deadline) {}

  Result<> want(const WantedModule& wanted) {
    const std::string name = module_name(wanted.name);
    on_demand_ = wanted.on_demand;
    if (tree_.files.count(name) != 0) return add(name, 0);
    if (tree_.builtin.count(name) != 0) {
      set_.builtin.push_back(name);
      return {};
    }
    if (wanted.missing == WantedModule::Missing::is_fine) {
      set_.missing.push_back(name);
      return {};
    }
    return unknown(name);
  }

  ModuleSet take() { return std::move(set_); }

 private:
  Result<> add(const std::string& name, size_t depth) {
    if (depth > k_max_depth) return fail(Code::invalid, "modules depend on each other too deeply");
    if (!done_.insert(name).second) return {};
    TRY_ASSIGN(Module module, load(name));
    for (const std::string& dependency : module.depends) {
      if (tree_.files.count(dependency) != 0)
        TRY(add(dependency, depth + 1));
      else if (tree_.builtin.count(dependency) == 0)
        return fail(Code::invalid, fmt::format("module {} depends on {}, which kernel {} lacks",
                                               name, dependency, tree_.version));
    }
    set_.load_order.push_back(std::move(module));
    return {};
  }

  Result<Module> load(const std::string& name) {
    const std::string& path = tree_.files.at(name);
    Module module;
    module.name = name;
    module.on_demand = on_demand_;
    TRY_ASSIGN(const std::string packed, read_file(path, k_max_module));
    auto data = decompress(packed, k_max_module, deadline_);
    if (!data) return named(path, data.error());
    auto stripped = strip_module(without_signature(*data), deadline_);
    if (!stripped) return named(path, stripped.error());
    module.data = std::move(*stripped);
    auto depends = modinfo(module.data, "depends");
    if (!depends) return named(path, depends.error());
    for (const std::string& list : *depends)
      for (const std::string& each : words(list, ',')) module.depends.push_back(module_name(each));
    TRY_ASSIGN(const std::vector<std::string> soft, modinfo(module.data, "softdep"));
    for (const std::string& line : soft) add_soft(line, module);
    TRY_ASSIGN(module.aliases, modinfo(module.data, "alias"));
    return module;
  }

  // "pre: crc32c post: …": taken along where a file can be found for it, by its name or by that of
  // the plain implementation of an algorithm ("crc32c_generic"); otherwise not needed. Newer
  // kernels ask for an algorithm by its alias, "crypto-crc32c".
  void add_soft(const std::string& line, Module& module) {
    constexpr std::string_view k_algorithm = "crypto_";
    bool before = false;
    for (const std::string& word : words(line, ' ')) {
      if (word.back() == ':') {
        before = word == "pre:";
        continue;
      }
      if (!before) continue;
      std::string plain = module_name(word);
      if (tree_.files.count(plain) == 0 && plain.compare(0, k_algorithm.size(), k_algorithm) == 0)
        plain.erase(0, k_algorithm.size());
      for (const std::string& name : {plain, plain + "_generic"})
        if (name != module.name && tree_.files.count(name) != 0) {
          module.depends.push_back(name);
          break;
        }
    }
  }

  tl::unexpected<Error> named(const std::string& path, Error error) {
    error.message = fmt::format("{}: {}", path, error.message);
    return fail(std::move(error));
  }

  Result<> unknown(const std::string& name) {
    const std::vector<std::string> near = near_names(tree_, name);
    std::string text = fmt::format("kernel {} has no module '{}'", tree_.version, printable(name));
    if (tree_.files.empty()) text += ", and no folder with its modules was found";
    if (!near.empty()) text += "; near: " + join(near, " ");
    return fail(Error(Code::usage, std::move(text)).with("valid", near));
  }

  const ModuleTree& tree_;
  const Deadline& deadline_;
  bool on_demand_ = false;
  std::set<std::string> done_;
  ModuleSet set_;
};

}  // namespace

std::string module_name(std::string_view name_or_path) {
  std::string name(name_or_path.substr(name_or_path.rfind('/') + 1));
  name = name.substr(0, name.find(".ko"));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Result<ModuleTree> index_modules(const std::string& dir, const std::string& version) {
  ModuleTree tree;
  tree.version = version;
  if (auto list = read_file(dir + "/modules.builtin", k_max_list))
    for (const std::string& line : words(*list, '\n')) tree.builtin.insert(module_name(line));
  std::error_code error;
  std::filesystem::recursive_directory_iterator walk(dir, error), end;
  if (error) return tree;
  for (; walk != end; walk.increment(error)) {
    const std::string path = walk->path().string();
    if (is_module_file(path)) tree.files.emplace(module_name(path), path);
    if (error) break;
  }
  if (error) return fail_errno("cannot read " + dir, error.value());
  return tree;
}

Result<ModuleSet> close_modules(const ModuleTree& tree, const std::vector<WantedModule>& wanted,
                                const Deadline& deadline) {
  Closer closer(tree, deadline);
  for (const WantedModule& each : wanted) TRY(closer.want(each));
  return closer.take();
}

std::vector<std::string> near_names(const ModuleTree& tree, std::string_view name) {
  constexpr size_t k_most = 8, k_far = 2, k_longest = 64;
  if (name.empty() || name.size() > k_longest) return {};
  std::set<std::string> names(tree.builtin);
  for (const auto& [each, path] : tree.files) names.insert(each);
  std::vector<std::pair<size_t, std::string>> found;
  for (const std::string& each : names) {
    const size_t apart = distance(name, each);
    const bool inside = name.size() > 2 && each.find(name) != std::string::npos;
    if (apart <= k_far || inside) found.emplace_back(apart, each);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> best;
  for (const auto& [apart, each] : found)
    if (best.size() < k_most) best.push_back(each);
  return best;
}

}  // namespace pv::guest
