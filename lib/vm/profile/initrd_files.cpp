// SPDX-License-Identifier: MIT
#include "vm/profile/initrd_files.hpp"

#include <sys/stat.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "guest/cpio.hpp"
#include "guest/cpio_tree.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_initrd = size_t{1} << 30;
constexpr size_t k_align = 4;  // where the kernel looks for the next archive

Result<guest::CpioTree> tree_of(const std::string& path, const std::string& bytes,
                                const Deadline& deadline) {
  auto tree = guest::read_cpio_tree(bytes, deadline);
  if (tree) return tree;
  return fail(tree.error().code,
              fmt::format("cannot add files to the initrd {}: it {}", path, tree.error().message));
}

}  // namespace

Result<> write_initrd(const std::string& initrd, const std::vector<guest::UserFile>& files,
                      const std::string& to, const Deadline& deadline) {
  std::string bytes;
  guest::CpioTree tree;
  if (!initrd.empty()) {
    TRY_ASSIGN(bytes, read_file(initrd, k_max_initrd));
    TRY_ASSIGN(tree, tree_of(initrd, bytes, deadline));
  }
  guest::CpioWriter out;
  for (const auto& [path, node] : tree) out.assume(path, node.type, node.target);
  for (const guest::UserFile& file : files) {
    // A file with several names would change under all of them. What replaces something of
    // another kind is made anew, so a link comes in between.
    const auto there = tree.find(out.resolved(file.dest));
    if (there != tree.end() && there->second.hard_link) out.symlink(file.dest, "/");
    out.file(file.dest, file.data, file.mode);
    if (out.state()) continue;
    const Error error(Code::invalid, out.state().error().message);
    return fail(error.with("field", "files").with("path", "/" + file.dest));
  }
  TRY_ASSIGN(const std::string segment, out.finish());
  bytes.append((k_align - bytes.size() % k_align) % k_align, '\0');
  bytes += segment;
  return write_file_atomic(to, bytes);
}

}  // namespace pv::vm
