// SPDX-License-Identifier: MIT
#include "serve/put_back.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/image_lock.hpp"
#include "blk/params.hpp"
#include "serve/snap_target.hpp"

namespace pv::serve {
namespace {

// Where symbolic links lead: the file itself is replaced, not a link to it.
std::string real_path(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  std::string real = resolved ? resolved : path;
  std::free(resolved);
  return real;
}

Result<> replace(const std::string& saved, const std::string& place) {
  const std::string path = real_path(place), temporary = path + ".restore";
  struct stat st {};
  Fd old(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!old || fstat(old.get(), &st) < 0)
    return fail_errno("cannot put the content back into " + path, errno);
  if (!S_ISREG(st.st_mode))
    return fail(Code::unsupported, path + " is no regular file: a snapshot is not put back there");
  TRY(blk::lock_image(old.get(), false, path));
  Fd from(open(saved.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!from) return fail_errno("cannot open " + saved, errno);
  unlink(temporary.c_str());  // of one that was killed
  Fd to(open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!to) return fail_errno("cannot create " + temporary, errno);
  Deferred remove([&] { unlink(temporary.c_str()); });
  TRY(copy_sparse(from.get(), to.get()));
  if (fchmod(to.get(), st.st_mode & 07777) < 0 || fsync(to.get()) < 0 ||
      rename(temporary.c_str(), path.c_str()) < 0)
    return fail_errno("cannot put the content back into " + path, errno);
  remove.cancel();
  return {};
}

tl::unexpected<Error> nowhere(const std::string& why) {
  return fail(Code::unsupported, "the content of the disk cannot be put back in place: " + why);
}

}  // namespace

Result<> can_be_put_back(const Spec& spec, const json& manifest) {
  const json& content = manifest.at("content");
  if (get_string(content, "kind") == k_snap_data) {
    const bool whole = get_u64(content, "above") == spec.layers.size();
    if (spec.type != "image" || spec.format != "raw" || !spec.key_file.empty() || !whole)
      return nowhere("it came from no raw image");
    if (spec.read_only) return nowhere("the disk is read-only");
    return {};
  }
  for (const json& overlay : content.at("base").at("overlays")) {
    const uint64_t layer = get_u64(overlay, "layer", UINT64_MAX);
    if (layer >= spec.layers.size()) return nowhere("it has an overlay of no layer");
    TRY_ASSIGN(const blk::LayerSpec cow, blk::parse_layer(spec.layers[layer]));
    const auto file = cow.params.find("file");
    if (cow.name != "cow" || file == cow.params.end() || cow.params.count("read_only") != 0)
      return nowhere("it came from an overlay without a file of its own");
  }
  return {};
}

Result<> put_back(const Spec& spec, const json& manifest, const std::string& dir) {
  TRY(can_be_put_back(spec, manifest));
  const json& content = manifest.at("content");
  if (get_string(content, "kind") == k_snap_data)
    return replace(dir + "/" + k_snap_data, spec.path);
  for (const json& overlay : content.at("base").at("overlays")) {
    TRY_ASSIGN(const blk::LayerSpec cow, blk::parse_layer(spec.layers[get_u64(overlay, "layer")]));
    TRY(replace(dir + "/" + get_string(overlay, "file"), cow.params.at("file")));
  }
  return {};
}

}  // namespace pv::serve
