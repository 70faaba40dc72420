// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/format.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct Options {
  std::string path;
  std::string size = "4G";
  std::string format;
};

Result<> create_raw(const std::string& path, uint64_t size) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd && errno == EEXIST)
    return fail(Code::duplicate_name, path + " exists already; it is not touched");
  if (!fd) return fail_errno("cannot create " + path, errno);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) == 0) return {};
  const int err = errno;
  unlink(path.c_str());
  return fail_errno("cannot size " + path, err);
}

// qemu-img overwrites what is there, so the name is claimed first.
Result<> create_formatted(const std::string& path, uint64_t size, const std::string& format,
                          const Deadline& deadline) {
  TRY(create_raw(path, 0));
  auto made =
      run_program({"qemu-img", "create", "-q", "-f", format, path, std::to_string(size)}, deadline);
  if (made && made->status.code == 0 && made->status.signal == 0) return {};
  unlink(path.c_str());
  if (!made) return fail(made.error());
  return fail(Code::invalid,
              fmt::format("cannot create {}: {}", path, split(made->err, '\n').front()));
}

Result<int> act(cli::Context& context, const Options& options) {
  TRY_ASSIGN(const uint64_t size, parse_size(options.size));
  if (size == 0 || size % 512 != 0)
    return fail(Code::usage, fmt::format("size {} is not a number of 512-byte sectors", size));
  const std::string path = absolute_path(options.path);
  std::string format = options.format;
  if (format.empty()) format = blk::format_of_extension(path);
  const std::vector<std::string> known = blk::known_formats();
  if (std::find(known.begin(), known.end(), format) == known.end())
    return fail(Error(Code::usage,
                      fmt::format("unknown format '{}' (formats: {})", format, join(known, " ")))
                    .with("valid", known));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  if (format == "raw")
    TRY(create_raw(path, size));
  else
    TRY(create_formatted(path, size, format, deadline));
  context.document()["disk"] = {
      {"state", "created"},
      {"size_bytes", size},
      {"source", {{"type", "image"}, {"path", path}, {"format", format}}}};
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_create(cli::Verb& verb) {
  auto options = std::make_shared<Options>();
  verb.positional("path", options->path, "The image; it must not exist")->required();
  verb.option("--size", options->size, "SIZE", "Capacity (default: 4G)");
  verb.option("--format", options->format, "NAME", "Format (default: by the extension, else raw)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
