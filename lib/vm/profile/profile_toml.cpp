// SPDX-License-Identifier: MIT
#include "vm/profile/profile_toml.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/profile/config.hpp"
#include "vm/profile/toml_tree.hpp"

namespace pv::vm {
namespace {

using Node = TomlNode;

constexpr size_t k_max_config = 1 << 20;
constexpr size_t k_max_items = 1000;  // of a list
constexpr std::string_view k_package_prefix = "linux-image-";

// One `[profiles.NAME]`: each key has a row in a table and a function.
class Reader {
 public:
  Reader(const std::string& path, std::string name)
      : path_(path), dir_(path.substr(0, path.rfind('/') + 1)) {
    profile_.name = std::move(name);
    profile_.file = path;
  }
  Result<Profile> read(const Node& table);

 private:
  struct Key {
    std::string_view name;
    Result<> (Reader::*read)(const Node&);
  };
  static const std::vector<Key>& profile_keys();
  static const std::vector<Key>& disk_keys();
  static const std::vector<Key>& file_keys();
  static const std::vector<Key>& build_keys();

  tl::unexpected<Error> wrong(const Node& node, std::string_view problem) const {
    return fail(toml_error(path_, node.place, problem));
  }
  // An error of a check that knows nothing of files gets its place.
  Result<> at(const Node& node, const Result<>& result) const {
    return result ? result : Result<>(wrong(node, result.error().message));
  }
  Result<> must_be(const Node& node, Node::Type type, std::string_view what) const;
  Result<> read_keys(const Node& table, const std::vector<Key>& keys, std::string_view where);
  Result<> check_whole(const Node& table);
  Result<> check_disk_boot(const Node& table);

  Result<> text(const Node& node, std::string& value) const;
  Result<> file(const Node& node, std::string& path) const;
  Result<> yes_no(const Node& node, bool& value) const;
  Result<> texts(const Node& node, std::vector<std::string>& values) const;
  Result<std::string> dest(const Node& node) const;

  Result<> kernel(const Node& node) { return file(node, profile_.kernel); }
  Result<> initrd(const Node& node) { return file(node, profile_.initrd); }
  Result<> cmdline(const Node& node);
  Result<> guest_os(const Node& node);
  Result<> memory(const Node& node);
  Result<> cpus(const Node& node);
  Result<> machine(const Node& node);
  Result<> agent(const Node& node) { return yes_no(node, profile_.agent); }
  Result<> qemu_args(const Node& node) { return texts(node, profile_.qemu_args); }
  Result<> disks(const Node& node);
  Result<> files(const Node& node);
  Result<> build(const Node& node);
  Result<> disk_id(const Node& node);
  Result<> disk_image(const Node& node) { return file(node, disk_.image); }
  Result<> disk_format(const Node& node) { return text(node, disk_.format); }
  Result<> disk_read_only(const Node& node) { return yes_no(node, disk_.read_only); }
  Result<> disk_boot(const Node& node) { return yes_no(node, disk_.boot); }
  Result<> file_source(const Node& node) { return file(node, file_.source); }
  Result<> file_text(const Node& node);
  Result<> file_mode(const Node& node);
  Result<> build_kernel(const Node& node);
  Result<> build_modules(const Node& node) { return texts(node, profile_.build->modules); }
  Result<> build_files(const Node& node);

  const std::string& path_;
  const std::string dir_;
  Profile profile_;
  ProfileDisk disk_;  // the one of `disks` that is being read
  GuestFile file_;    // the one of `files` that is being read
};

const std::vector<Reader::Key>& Reader::profile_keys() {
  static const std::vector<Key> keys = {
      {"kernel", &Reader::kernel},   {"initrd", &Reader::initrd},
      {"cmdline", &Reader::cmdline}, {"guest_os", &Reader::guest_os},
      {"memory", &Reader::memory},   {"cpus", &Reader::cpus},
      {"machine", &Reader::machine}, {"qemu_args", &Reader::qemu_args},
      {"disks", &Reader::disks},     {"files", &Reader::files},
      {"build", &Reader::build},     {"agent", &Reader::agent}};
  return keys;
}

const std::vector<Reader::Key>& Reader::disk_keys() {
  static const std::vector<Key> keys = {{"id", &Reader::disk_id},
                                        {"image", &Reader::disk_image},
                                        {"format", &Reader::disk_format},
                                        {"read_only", &Reader::disk_read_only},
                                        {"boot", &Reader::disk_boot}};
  return keys;
}

const std::vector<Reader::Key>& Reader::file_keys() {
  static const std::vector<Key> keys = {
      {"source", &Reader::file_source}, {"text", &Reader::file_text}, {"mode", &Reader::file_mode}};
  return keys;
}

const std::vector<Reader::Key>& Reader::build_keys() {
  static const std::vector<Key> keys = {{"kernel", &Reader::build_kernel},
                                        {"modules", &Reader::build_modules},
                                        {"files", &Reader::build_files}};
  return keys;
}

Result<> Reader::read_keys(const Node& table, const std::vector<Key>& keys,
                           std::string_view where) {
  for (const Node& entry : table.items) {
    const auto known = std::find_if(keys.begin(), keys.end(),
                                    [&](const Key& key) { return key.name == entry.name; });
    if (known != keys.end()) {
      TRY((this->*known->read)(entry));
      continue;
    }
    std::vector<std::string> names;
    for (const Key& key : keys) names.emplace_back(key.name);
    const Error error = toml_error(
        path_, entry.name_place,
        fmt::format("unknown key '{}' in {}; keys: {}", entry.name, where, join(names, " ")));
    return fail(error.with("valid", names));
  }
  return {};
}

Result<Profile> Reader::read(const Node& table) {
  TRY(must_be(table, Node::Type::table, "a table"));
  TRY(read_keys(table, profile_keys(), fmt::format("[profiles.{}]", profile_.name)));
  TRY(check_whole(table));
  return std::move(profile_);
}

// What the keys mean together.
Result<> Reader::check_whole(const Node& table) {
  const Profile& p = profile_;
  if (p.build && (!p.kernel.empty() || !p.initrd.empty()))
    return wrong(*table.find("build"),
                 "build makes kernel and initrd: give it, or kernel and initrd, not both");
  if (p.boots_from_disk()) return check_disk_boot(table);
  for (const ProfileDisk& disk : p.disks)
    if (disk.boot)
      return wrong(*table.find("disks"),
                   fmt::format("disk '{}': boot is for profiles without a kernel", disk.id));
  return {};
}

Result<> Reader::check_disk_boot(const Node& table) {
  Profile& p = profile_;
  for (const char* key : {"initrd", "cmdline"})
    if (const Node* node = table.find(key))
      return wrong(
          *node, fmt::format("{} needs a kernel; a guest that boots from a disk has its own", key));
  if (p.disks.empty())
    return wrong(table, fmt::format("profile '{}' has nothing to boot: give kernel, build or disks",
                                    p.name));
  const auto count = std::count_if(p.disks.begin(), p.disks.end(),
                                   [](const ProfileDisk& disk) { return disk.boot; });
  if (count > 1) return wrong(*table.find("disks"), "only one disk can have boot = true");
  if (count == 0) p.disks.front().boot = true;
  return {};
}

Result<> Reader::must_be(const Node& node, Node::Type type, std::string_view what) const {
  if (node.type == type) return {};
  return wrong(node, fmt::format("{} must be {}, not a {}",
                                 node.name.empty() ? "an item" : "'" + node.name + "'", what,
                                 node.type_name));
}

Result<> Reader::text(const Node& node, std::string& value) const {
  TRY(must_be(node, Node::Type::string, "a string"));
  const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  if (node.text.empty()) return wrong(node, fmt::format("'{}' is empty", node.name));
  if (std::any_of(node.text.begin(), node.text.end(), control))
    return wrong(node, fmt::format("'{}' has control characters", node.name));
  value = node.text;
  return {};
}

Result<> Reader::file(const Node& node, std::string& path) const {
  TRY(text(node, path));
  path = absolute_path(path[0] == '/' ? path : dir_ + path);
  return {};
}

Result<> Reader::yes_no(const Node& node, bool& value) const {
  TRY(must_be(node, Node::Type::boolean, "true or false"));
  value = node.number != 0;
  return {};
}

Result<> Reader::texts(const Node& node, std::vector<std::string>& values) const {
  TRY(must_be(node, Node::Type::list, "a list of strings"));
  if (node.items.size() > k_max_items) return wrong(node, "too long a list");
  for (const Node& item : node.items) TRY(text(item, values.emplace_back()));
  return {};
}

// The name of an entry that is a path in the guest.
Result<std::string> Reader::dest(const Node& node) const {
  auto path = guest_dest("files", node.name);
  if (!path) return fail(toml_error(path_, node.name_place, path.error().message));
  return path;
}

Result<> Reader::cmdline(const Node& node) {
  TRY(text(node, profile_.cmdline));
  return at(node, check_cmdline("cmdline", profile_.cmdline));
}

Result<> Reader::guest_os(const Node& node) {
  TRY(text(node, profile_.guest_os));
  return at(node, check_name("guest_os", profile_.guest_os));
}

// "512M"; a number is bytes.
Result<> Reader::memory(const Node& node) {
  std::string size = std::to_string(node.number);
  if (node.type != Node::Type::integer) TRY(text(node, size));
  const auto parsed = parse_memory("memory", size);
  if (!parsed) return wrong(node, parsed.error().message);
  profile_.memory_bytes = *parsed;
  return {};
}

Result<> Reader::cpus(const Node& node) {
  TRY(must_be(node, Node::Type::integer, "a number"));
  const auto parsed = parse_cpus("cpus", std::to_string(node.number));
  if (!parsed) return wrong(node, parsed.error().message);
  profile_.cpus = *parsed;
  return {};
}

Result<> Reader::machine(const Node& node) {
  TRY(text(node, profile_.machine));
  const std::string& name = profile_.machine;
  const bool plain =
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-.") == std::string::npos;
  if (plain && (name == "q35" || name.rfind("pc-q35-", 0) == 0)) return {};
  return wrong(node,
               fmt::format("machine '{}': only q35 and its versions (pc-q35-…) have the slots "
                           "that disks are plugged into",
                           name));
}

Result<> Reader::disks(const Node& node) {
  TRY(must_be(node, Node::Type::list, "a list"));
  if (node.items.size() > k_max_profile_disks)
    return wrong(node, fmt::format("more than {} disks", k_max_profile_disks));
  for (const Node& item : node.items) {
    disk_ = ProfileDisk{};
    disk_.id = fmt::format("vd{}", static_cast<char>('a' + profile_.disks.size()));
    if (item.type == Node::Type::table)
      TRY(read_keys(item, disk_keys(), "a disk"));
    else
      TRY(file(item, disk_.image));
    if (disk_.image.empty()) return wrong(item, "a disk needs the key image");
    for (const ProfileDisk& other : profile_.disks)
      if (other.id == disk_.id) return wrong(item, fmt::format("two disks '{}'", disk_.id));
    profile_.disks.push_back(disk_);
  }
  return {};
}

Result<> Reader::disk_id(const Node& node) {
  TRY(text(node, disk_.id));
  return at(node, check_name("disk", disk_.id));
}

Result<> Reader::files(const Node& node) {
  TRY(must_be(node, Node::Type::table, "a table DEST = SRC"));
  if (node.items.size() > k_max_items) return wrong(node, "too many files");
  for (const Node& entry : node.items) {
    file_ = GuestFile{};
    TRY_ASSIGN(file_.dest, dest(entry));
    if (entry.type == Node::Type::table) {
      TRY(read_keys(entry, file_keys(), "file " + file_.dest));
      if ((entry.find("source") == nullptr) == (entry.find("text") == nullptr))
        return wrong(entry, fmt::format("file {} needs either source or text", file_.dest));
    } else {
      TRY(file(entry, file_.source));
    }
    lay_over(profile_.files, file_);
  }
  return {};
}

Result<> Reader::file_text(const Node& node) {
  TRY(must_be(node, Node::Type::string, "a string"));
  file_.text = node.text;
  return {};
}

// 0o755 or "0755". A decimal 755 would be a mistake that nobody sees.
Result<> Reader::file_mode(const Node& node) {
  if (node.type == Node::Type::integer) {
    if (!node.octal || node.number < 0 || node.number > k_max_mode)
      return wrong(node, "a mode is written like 0o755 or \"0755\"");
    file_.mode = static_cast<uint32_t>(node.number);
    return {};
  }
  std::string digits;
  TRY(text(node, digits));
  const auto parsed = parse_mode("mode", digits);
  if (!parsed) return wrong(node, parsed.error().message);
  file_.mode = *parsed;
  return {};
}

Result<> Reader::build(const Node& node) {
  TRY(must_be(node, Node::Type::table, "a table"));
  profile_.build.emplace();
  profile_.build->name = profile_.name;
  return read_keys(node, build_keys(), "build");
}

// A package is named; anything else is a file.
Result<> Reader::build_kernel(const Node& node) {
  std::string& kernel = profile_.build->kernel;
  TRY(text(node, kernel));
  const bool package = kernel.find('/') == std::string::npos &&
                       kernel.compare(0, k_package_prefix.size(), k_package_prefix) == 0;
  return package ? Result<>() : file(node, kernel);
}

Result<> Reader::build_files(const Node& node) {
  TRY(must_be(node, Node::Type::table, "a table DEST = SRC"));
  for (const Node& entry : node.items) {
    TRY_ASSIGN(const std::string to, dest(entry));
    if (to.find('=') != std::string::npos) return wrong(entry, "'=' cannot be part of a DEST");
    std::string from;
    TRY(file(entry, from));
    profile_.build->files.push_back(to + "=" + from);
  }
  return {};
}

}  // namespace

Result<std::vector<Profile>> parse_profiles(std::string_view text, const std::string& path) {
  TRY_ASSIGN(const Node root, parse_toml(text, path));
  std::vector<Profile> profiles;
  for (const Node& all : root.items) {
    if (all.name != "profiles")
      return fail(
          toml_error(path, all.name_place,
                     fmt::format("unknown key '{}'; there is only [profiles.NAME]", all.name)));
    if (all.type != Node::Type::table)
      return fail(toml_error(path, all.place, "'profiles' must be a table of profiles"));
    for (const Node& body : all.items) {
      if (const auto good = check_name("profile", body.name); !good)
        return fail(toml_error(path, body.name_place, good.error().message));
      if (body.name == k_tiny)
        return fail(
            toml_error(path, body.name_place, "profile 'tiny' is built in; choose another name"));
      TRY_ASSIGN(Profile profile, Reader(path, body.name).read(body));
      profiles.push_back(std::move(profile));
    }
  }
  return profiles;
}

Result<std::vector<Profile>> read_profiles(const std::string& path) {
  auto text = read_file(path, k_max_config);
  if (!text) return fail(Code::invalid, text.error().message);
  return parse_profiles(*text, path);
}

}  // namespace pv::vm
