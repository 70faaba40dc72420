// SPDX-License-Identifier: MIT
#include "guest/guest.hpp"

#include <cstdio>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/profile/profile.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_build_timeout_ns = 10 * 60 * k_ns_per_s;  // a slow network

struct GuestOptions {
  std::string action;
  std::string profile;
  std::string config;
  guest::BuildOptions build;
};

// The image of a profile is made as the profile says, and named after it.
Result<> apply_profile(GuestOptions& options) {
  if (options.profile.empty()) {
    if (options.config.empty()) return {};
    return fail(Code::usage, "--config belongs to --profile");
  }
  const guest::BuildOptions& given = options.build;
  if (!given.kernel.empty() || !given.modules.empty() || !given.files.empty() ||
      given.name != guest::k_default_name)
    return fail(Code::usage,
                "--profile says it all: --kernel, --module, --file and --name do not "
                "go with it");
  if (options.profile == vm::k_tiny) return {};
  TRY_ASSIGN(const std::string config, vm::find_config(options.config));
  TRY_ASSIGN(const vm::Profile profile, vm::find_profile(options.profile, config));
  if (!profile.build)
    return fail(Code::invalid, fmt::format("profile '{}' has no 'build': it is not made from "
                                           "packages",
                                           profile.name));
  const bool force = options.build.force;
  options.build = *profile.build;
  options.build.force = force;
  return {};
}

// The flags of `build` mean nothing to the other actions.
Result<> check_flags(const GuestOptions& options) {
  if (options.action == "build") return {};
  const guest::BuildOptions& build = options.build;
  if (!build.kernel.empty() || !build.modules.empty() || !build.files.empty() || build.force)
    return fail(Code::usage, "--kernel, --module, --file and --force belong to 'guest build'");
  if (options.action == "clean" &&
      (build.name != guest::k_default_name || !options.profile.empty()))
    return fail(Code::usage, "'guest clean' removes all images: --name and --profile do not apply");
  return {};
}

Result<int> build_image(cli::Context& context, const GuestOptions& options) {
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_build_timeout_ns));
  const bool terminal = isatty(STDERR_FILENO) == 1;
  const auto progress = [terminal](std::string_view step) {
    if (terminal) cli::say(fmt::format("guest: {}", printable(step)));
  };
  TRY_ASSIGN(const guest::Image image, guest::build(options.build, deadline, progress));
  TRY_ASSIGN(context.document()["guest"], guest::describe(image, options.build.name));
  TRY(context.emit());
  return 0;
}

Result<int> show_image(cli::Context& context, const std::string& name) {
  TRY_ASSIGN(const guest::Image image,
             name == guest::k_default_name ? guest::find_tiny() : guest::find(name));
  TRY_ASSIGN(context.document()["guest"], guest::describe(image, name));
  TRY(context.emit());
  return 0;
}

Result<int> clean_cache(cli::Context& context) {
  TRY_ASSIGN(const Deadline deadline, context.deadline(10 * k_ns_per_s));
  TRY_ASSIGN(context.document()["guest"], guest::clean(deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_guest(cli::Verb& verb) {
  auto options = std::make_shared<GuestOptions>();
  verb.positional(
          "action", options->action,
          "build: make a guest image; info: show it; clean: delete all images and downloads")
      ->required()
      ->check(CLI::IsMember({"build", "info", "clean"}));
  verb.option(
      "--kernel", options->build.kernel, "FILE|PACKAGE",
      "A bzImage or vmlinux, or a package linux-image-… (default: the newest cloud kernel)");
  verb.option("--module", options->build.modules, "NAME",
              "Also load this kernel module and what it depends on; may be repeated");
  verb.option("--file", options->build.files, "DEST=SRC",
              "Also put file SRC at the absolute path DEST; may be repeated");
  verb.option("--name", options->build.name, "NAME",
              "Build or show the image of this name (default: tiny, which VMs boot)");
  verb.option("--profile", options->profile, "NAME",
              "Build or show the image of a profile, as its key 'build' says");
  add_config_flag(verb, options->config);
  verb.flag("--force", options->build.force, "Build even when the cache has this image");
  verb.run([options](cli::Context& context) -> Result<int> {
    TRY(check_flags(*options));
    TRY(apply_profile(*options));
    if (options->action == "build") return build_image(context, *options);
    if (options->action == "info") return show_image(context, options->build.name);
    return clean_cache(context);
  });
}

}  // namespace pv::vmcmd
