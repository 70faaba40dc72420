// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/format.hpp"
#include "blk/uri.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct CreateOptions {
  std::string path;
  std::string size = "4G";
  std::string format;
  std::string key_file;
};

constexpr int k_create_tries = 10;

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

// The arguments that make an encrypted image. The key is stretched for 10 ms only: the data of a
// test is no secret, and every opening would wait.
std::vector<std::string> key_arguments(const std::string& format, const std::string& key_file) {
  if (key_file.empty()) return {};
  const char* options = format == "luks" ? "key-secret=key,iter-time=10"
                                         : "encrypt.format=luks,encrypt.key-secret=key,"
                                           "encrypt.iter-time=10";
  std::string path;
  for (const char c : key_file) path += c == ',' ? std::string(",,") : std::string(1, c);
  return {"--object", "secret,id=key,file=" + path, "-o", options};
}

// What the format has made of the size: vpc rounds it to a geometry of cylinders.
Result<uint64_t> size_made(const std::string& path, const std::string& format,
                           const Deadline& deadline) {
  TRY_ASSIGN(const Output info,
             run_program({"qemu-img", "info", "--output=json", "-f", format, path}, deadline));
  TRY_ASSIGN(const json said, parse_json(info.out));
  return get_u64(said, "virtual-size");
}

// To know how long a key is to be stretched, QEMU measures its own CPU time, and gives up when the
// kernel's accounting shows none yet (qcrypto_pbkdf2_count_iters).
Result<Output> run_qemu_img(const std::vector<std::string>& argv, const Deadline& deadline) {
  for (int tries = k_create_tries;; --tries) {
    auto made = run_program(argv, deadline);
    const bool unlucky = made && made->err.find("accurate CPU usage") != std::string::npos;
    if (!unlucky || tries <= 1) return made;
  }
}

// qemu-img overwrites what is there, so the name is claimed first.
Result<> create_formatted(const std::string& path, uint64_t size, const std::string& format,
                          const std::string& key_file, const Deadline& deadline) {
  TRY(create_raw(path, 0));
  std::vector<std::string> argv = {"qemu-img", "create", "-q", "-f", format};
  for (const std::string& argument : key_arguments(format, key_file)) argv.push_back(argument);
  argv.insert(argv.end(), {path, std::to_string(size)});
  auto made = run_qemu_img(argv, deadline);
  if (made && made->status.code == 0 && made->status.signal == 0) return {};
  unlink(path.c_str());
  if (!made) return fail(made.error());
  const std::string reason = split(made->err, '\n').front();
  const bool cannot = reason.find("does not support") != std::string::npos;
  return fail(cannot ? Code::unsupported : Code::invalid,
              fmt::format("cannot create {}: {}", path, reason));
}

Result<> check_key(const std::string& format, const std::string& key_file) {
  if (format == "luks" && key_file.empty())
    return fail(Code::usage, "a luks image is encrypted: say --key-file");
  if (!key_file.empty() && !blk::takes_key(format))
    return fail(Code::usage, fmt::format("--key-file is for luks and qcow2, not for {}", format));
  if (key_file.empty() || access(key_file.c_str(), R_OK) == 0) return {};
  return fail(Code::invalid,
              fmt::format("cannot read the key file {}: {}", key_file, strerrordesc_np(errno)),
              errno);
}

Result<int> act(cli::Context& context, const CreateOptions& options) {
  TRY_ASSIGN(const uint64_t size, parse_size(options.size));
  if (size == 0 || size % 512 != 0)
    return fail(Code::usage, fmt::format("size {} is not a number of 512-byte sectors", size));
  if (blk::is_uri(options.path))
    return fail(Code::usage, options.path + " is a URI; images are made as files");
  const std::string path = absolute_path(options.path);
  const std::string key_file = options.key_file.empty() ? "" : absolute_path(options.key_file);
  std::string format = options.format;
  if (format.empty()) format = blk::format_of_extension(path);
  const std::vector<std::string> known = blk::known_formats();
  if (std::find(known.begin(), known.end(), format) == known.end())
    return fail(Error(Code::usage,
                      fmt::format("unknown format '{}' (formats: {})", format, join(known, " ")))
                    .with("valid", known));
  TRY(check_key(format, key_file));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  uint64_t made = size;
  if (format == "raw") {
    TRY(create_raw(path, size));
  } else {
    TRY(create_formatted(path, size, format, key_file, deadline));
    TRY_ASSIGN(made, size_made(path, format, deadline));
  }
  json source = {{"type", "image"}, {"path", path}, {"format", format}};
  if (!key_file.empty()) source["key_file"] = key_file;
  context.document()["disk"] = {{"state", "created"}, {"size_bytes", made}, {"source", source}};
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_create(cli::Verb& verb) {
  auto options = std::make_shared<CreateOptions>();
  verb.positional("path", options->path, "The image; it must not exist")->required();
  verb.option("--size", options->size, "SIZE", "Capacity (default: 4G)");
  verb.option("--format", options->format, "NAME", "Format (default: by the extension, else raw)");
  verb.option("--key-file", options->key_file, "PATH",
              "Encrypt with this passphrase: the whole file, a newline included");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
