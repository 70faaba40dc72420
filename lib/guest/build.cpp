// SPDX-License-Identifier: MIT
// build(): from a request to an image in the cache. The order matters: everything cheap and
// everything that can be wrong with the request comes before the first download, and nothing is
// seen by others until the whole image is on disk.
#include <cerrno>
#include <cstdio>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "guest/guest.hpp"
#include "guest/image.hpp"
#include "guest/initrd.hpp"
#include "guest/kernel.hpp"
#include "guest/packages.hpp"
#include "guest/source.hpp"

namespace pv::guest {
namespace {

constexpr const char* k_default_kernel = "linux-image-cloud-amd64";
constexpr size_t k_max_kernel = size_t{1} << 30;

// Without the first three a guest has no disk and no agent. A kernel of one's own may do without
// the others: no entropy from the host, no power button.
const std::vector<WantedModule> k_base_modules = {
    {"virtio_pci", WantedModule::Missing::is_error},
    {"virtio_blk", WantedModule::Missing::is_error},
    {"virtio_console", WantedModule::Missing::is_error},
    {"virtio_rng", WantedModule::Missing::is_fine},
    {"evdev", WantedModule::Missing::is_fine},
    {"button", WantedModule::Missing::is_fine},
};

// Loading these takes tens of milliseconds: done only where there is a CD drive.
const std::vector<WantedModule> k_cdrom_modules = {
    {"virtio_scsi", WantedModule::Missing::is_fine, true},
    {"sr_mod", WantedModule::Missing::is_fine, true},
    {"isofs", WantedModule::Missing::is_fine, true},
};

// Loaded when the VM is attached to a lan.
const std::vector<WantedModule> k_network_modules = {
    {"virtio_net", WantedModule::Missing::is_fine, true},
};

// mount(8) has the kernel ask modprobe for it. Some kernels have it built in.
const std::vector<WantedModule> k_file_system_modules = {
    {"ext4", WantedModule::Missing::is_fine, true},
};

class Builder {
 public:
  Builder(const BuildOptions& options, const Deadline& deadline, const Progress& progress,
          Cache cache)
      : options_(options),
        deadline_(deadline),
        progress_(progress),
        cache_(std::move(cache)),
        store_(cache_, progress) {}

  Result<Image> run() {
    remove_leftovers(cache_.images());
    TRY(check_request());
    TRY(choose_sources());
    if (auto image = cached()) return named(std::move(*image));
    TRY(get_packages());
    if (auto image = cached()) return named(std::move(*image));
    TRY_ASSIGN(work_, make_temp_dir(cache_.images()));
    DEFER(remove_tree(work_));
    TRY(unpack());
    TRY(load_the_kernel());
    TRY(write_image());
    return publish();
  }

 private:
  Result<> check_request();
  Result<> choose_sources();
  Result<> use_packages(bool fresh);
  Result<> get_packages();
  Result<> unpack();
  Result<> load_the_kernel();
  Result<> write_image();
  Result<Image> publish();
  json manifest(const ModuleSet& modules, uint64_t initrd_bytes) const;

  bool own_kernel() const { return !kernel_path_.empty(); }

  std::string key() const {
    Recipe recipe;
    for (const Source& source : sources_)
      recipe.sources.push_back(std::string(part_name(source.part)) + " " + source.identity);
    if (own_kernel()) recipe.sources.push_back("file " + kernel_hash_);
    for (const std::string& module : options_.modules)
      recipe.modules.push_back(module_name(module));
    recipe.files = files_;
    return image_key(recipe);
  }

  std::optional<Image> cached() const {
    if (options_.force) return std::nullopt;
    return whole_image(cache_, key());
  }

  Result<Image> named(Image image) const {
    TRY(set_name(cache_, options_.name, image.key));
    return image;
  }

  Source* source(Part part) {
    for (Source& each : sources_)
      if (each.part == part) return &each;
    return nullptr;
  }

  const BuildOptions& options_;
  const Deadline& deadline_;
  const Progress& progress_;
  const Cache cache_;
  PackageStore store_;
  std::vector<UserFile> files_;
  std::string kernel_package_;  // one of these two is set
  std::string kernel_path_;
  std::string kernel_bytes_;
  std::string kernel_hash_;
  std::vector<Source> sources_;
  std::string work_;
  Kernel kernel_;
  std::string modules_dir_;
};

Result<> Builder::check_request() {
  TRY(check_name("guest image", options_.name));
  for (const std::string& module : options_.modules)
    if (module_name(module).empty()) return fail(Code::usage, "--module: empty name");
  TRY_ASSIGN(files_, load_user_files(options_.files));
  const std::string& kernel = options_.kernel;
  if (kernel.empty()) {
    kernel_package_ = k_default_kernel;
  } else if (kernel.find('/') == std::string::npos && kernel.compare(0, 12, "linux-image-") == 0) {
    if (kernel.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.+-") != std::string::npos)
      return fail(Code::usage, fmt::format("--kernel: '{}' is no package name", printable(kernel)));
    kernel_package_ = kernel;
  } else {
    kernel_path_ = absolute_path(kernel);
    auto bytes = read_file(kernel_path_, k_max_kernel);
    if (!bytes) return fail(bytes.error());
    kernel_bytes_ = std::move(*bytes);
    kernel_hash_ = content_hash(kernel_bytes_);
  }
  return {};
}

Result<> Builder::use_packages(bool fresh) {
  TRY_ASSIGN(const std::vector<PartPackages> parts,
             store_.resolve(kernel_package_, fresh, deadline_));
  sources_.clear();
  for (const PartPackages& part : parts) sources_.push_back(package_source(part));
  return {};
}

Result<> Builder::choose_sources() {
  const auto resolved = use_packages(options_.force);
  if (resolved || resolved.error().code != Code::unavailable) return resolved;
  // A kernel that was asked for by name is wanted as such; nothing else will do.
  if (!options_.kernel.empty() && !own_kernel()) return resolved;
  progress_(resolved.error().message + "; using what is installed");
  sources_.clear();
  for (const Part part : k_parts) {
    if (part == Part::kernel && own_kernel()) continue;
    auto installed = host_source(part);
    if (!installed)
      return fail(Code::unavailable,
                  fmt::format("{}; and {}", resolved.error().message, installed.error().message));
    sources_.push_back(std::move(*installed));
  }
  return {};
}

Result<> Builder::get_packages() {
  std::vector<Package> all;
  for (const Source& each : sources_)
    all.insert(all.end(), each.packages.begin(), each.packages.end());
  auto fetched = store_.fetch(all, deadline_);
  if (fetched || fetched.error().code != Code::unavailable) return fetched;
  if (fetched.error().message.find("Not Found") != std::string::npos) {
    progress_("package lists are out of date; getting new ones");
    TRY(store_.refresh(deadline_));
    TRY(use_packages(true));
    all.clear();
    for (const Source& each : sources_)
      all.insert(all.end(), each.packages.begin(), each.packages.end());
    return store_.fetch(all, deadline_);
  }
  progress_(fetched.error().message + "; using what is installed");
  for (Source& each : sources_) {
    if (each.host || store_.have_all(each.packages)) continue;
    const bool by_name = each.part == Part::kernel && !options_.kernel.empty();
    auto installed = by_name ? Result<Source>(fail(fetched.error())) : host_source(each.part);
    if (by_name) return fetched;
    if (!installed)
      return fail(Code::unavailable,
                  fmt::format("{}; and {}", fetched.error().message, installed.error().message));
    each = std::move(*installed);
  }
  return {};
}

Result<> Builder::unpack() {
  for (Source& each : sources_) {
    if (each.host) continue;
    each.root = fmt::format("{}/{}", work_, part_name(each.part));
    TRY(make_dir(each.root));
    for (const Package& package : each.packages) {
      progress_("unpacking " + package.name);
      TRY(store_.unpack(package, each.root, deadline_));
    }
  }
  return {};
}

Result<> Builder::load_the_kernel() {
  progress_("extracting the kernel");
  std::string path = kernel_path_;
  if (!own_kernel()) {
    TRY_ASSIGN(const KernelFiles files, find_kernel(source(Part::kernel)->root));
    path = files.image;
    modules_dir_ = files.modules_dir;
    TRY_ASSIGN(kernel_bytes_, read_file(path, k_max_kernel));
  }
  auto kernel = load_kernel(std::move(kernel_bytes_), deadline_);
  if (!kernel) {
    Error error = kernel.error();
    error.message = fmt::format("{} {}", path, error.message);
    return fail(std::move(error));
  }
  kernel_ = std::move(*kernel);
  if (!own_kernel()) return {};
  modules_dir_ = find_modules_for(path, kernel_.version);
  if (modules_dir_.empty())
    progress_("no modules found for this kernel: it must have virtio built in");
  return {};
}

Result<> Builder::write_image() {
  ModuleTree tree;
  tree.version = kernel_.version.empty() ? kernel_path_ : kernel_.version;
  if (!modules_dir_.empty()) {
    TRY_ASSIGN(tree, index_modules(modules_dir_, kernel_.version));
  }
  std::vector<WantedModule> wanted = k_base_modules;
  // Without a folder of modules a kernel is taken to have built in what it needs.
  if (modules_dir_.empty())
    for (WantedModule& each : wanted) each.missing = WantedModule::Missing::is_fine;
  for (const std::string& module : options_.modules) wanted.push_back({module});
  wanted.insert(wanted.end(), k_cdrom_modules.begin(), k_cdrom_modules.end());
  wanted.insert(wanted.end(), k_network_modules.begin(), k_network_modules.end());
  wanted.insert(wanted.end(), k_file_system_modules.begin(), k_file_system_modules.end());
  TRY_ASSIGN(const ModuleSet modules, close_modules(tree, wanted, deadline_));

  progress_("writing the initial RAM disk");
  InitrdParts parts;
  TRY_ASSIGN(parts.busybox, find_busybox(source(Part::busybox)->root));
  TRY_ASSIGN(parts.agent, find_agent(source(Part::agent)->root));
  parts.agent_root = source(Part::agent)->root;
  parts.kernel_version = kernel_.version;
  parts.modules = &modules;
  parts.files = &files_;
  TRY_ASSIGN(const std::string initrd, make_initrd(parts, deadline_));

  TRY(make_dir(work_ + "/image"));
  TRY(write_file_atomic(work_ + "/image/kernel", kernel_.bytes));
  TRY(write_file_atomic(work_ + "/image/initrd", initrd));
  return write_file_atomic(work_ + "/image/manifest.json",
                           to_line(manifest(modules, initrd.size())) + "\n");
}

json Builder::manifest(const ModuleSet& modules, uint64_t initrd_bytes) const {
  json loaded = json::array(), on_demand = json::array(), packages = json::array(),
       files = json::array();
  json installed = json::array();
  for (const Module& module : modules.load_order)
    (module.on_demand ? on_demand : loaded).push_back(module.name);
  for (const Source& each : sources_) {
    if (each.host) installed.push_back(each.identity.substr(0, each.identity.find(' ')));
    for (const Package& package : each.packages)
      packages.push_back(package.file.substr(0, package.file.rfind('.')));
  }
  for (const UserFile& file : files_) files.push_back("/" + file.dest);
  json out = {{"v", 1},
              {"kernel_version", kernel_.version},
              {"kernel_format", kernel_.pvh ? "vmlinux" : "bzimage"},
              {"modules", loaded},
              {"on_demand_modules", on_demand},
              {"builtin_modules", modules.builtin},
              {"missing_modules", modules.missing},
              {"packages", packages},
              {"installed_files", installed},
              {"files", files},
              {"kernel_bytes", kernel_.bytes.size()},
              {"initrd_bytes", initrd_bytes}};
  if (own_kernel()) out["kernel_source"] = kernel_path_;
  if (!kernel_.note.empty()) out["kernel_note"] = kernel_.note;
  return out;
}

Result<Image> Builder::publish() {
  const std::string image_key = key();
  const std::string to = cache_.image(image_key);
  // Under --force, or when the old one was damaged: make room. A VM that is just now starting from
  // it has its files open or finds the new ones.
  if (access(to.c_str(), F_OK) == 0 && rename(to.c_str(), (work_ + "/old").c_str()) < 0)
    return fail_errno("cannot replace " + to, errno);
  if (rename((work_ + "/image").c_str(), to.c_str()) < 0)
    return fail_errno("cannot create " + to, errno);
  auto image = whole_image(cache_, image_key);
  if (!image) return fail(Code::bug, "the new guest image is not whole");
  return named(std::move(*image));
}

}  // namespace

Result<Image> build(const BuildOptions& options, const Deadline& deadline,
                    const Progress& progress) {
  TRY_ASSIGN(Cache cache, open_cache());
  TRY_ASSIGN(const LockFile lock, LockFile::acquire(cache.lock(), deadline, "the guest cache"));
  const Progress silent = [](std::string_view) {};
  return Builder(options, deadline, progress ? progress : silent, std::move(cache)).run();
}

}  // namespace pv::guest
