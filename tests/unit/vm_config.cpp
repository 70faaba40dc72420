// SPDX-License-Identifier: MIT
// If this fails, bad options reach QEMU instead of being refused with the flag's name.
#include <stdlib.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "vm/machine.hpp"
#include "vm/profile/config.hpp"
#include "vm/profile/profile.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

// The code with which these options are refused; nullopt when they are taken.
std::optional<Code> refused(const VmOptions& options) {
  VmConfig config;
  const auto result = apply_options(config, options);
  if (result) return std::nullopt;
  return result.error().code;
}

VmOptions with(std::string VmOptions::*member, const std::string& value) {
  VmOptions options;
  options.*member = value;
  return options;
}

}  // namespace

TEST_CASE("config: memory sizes") {
  for (const char* good : {"16M", "256M", "1G", "1.5G", "268435456", "1T"})
    CHECK_FALSE(refused(with(&VmOptions::memory, good)));
  for (const char* bad : {"0", "-1", "8M", "256", "100k", "2T", "16.0001M", "x", "M", "1e9", " 1G"})
    CHECK(refused(with(&VmOptions::memory, bad)) == Code::usage);
}

TEST_CASE("config: processors") {
  for (const char* good : {"1", "8", "255"}) CHECK_FALSE(refused(with(&VmOptions::cpus, good)));
  for (const char* bad : {"0", "256", "-1", "1.5", "2x", " 1", "99999999999999999999"})
    CHECK(refused(with(&VmOptions::cpus, bad)) == Code::usage);
}

TEST_CASE("config: kernel command lines") {
  VmOptions options;
  options.cmdline = "";
  CHECK_FALSE(refused(options));
  options.cmdline = "two\nlines";
  CHECK(refused(options) == Code::usage);
  CHECK(refused(with(&VmOptions::cmdline_append, std::string("a\0b", 3))) == Code::usage);
  CHECK(refused(with(&VmOptions::cmdline_append, std::string(3000, 'x'))) == Code::usage);
}

TEST_CASE("config: an unknown accelerator lists the known ones") {
  VmConfig config;
  const auto result = apply_options(config, with(&VmOptions::accel, "hvf"));
  REQUIRE_FALSE(result);
  CHECK(result.error().code == Code::bad_mode);
  CHECK((*result.error().extra)["valid"] == json({"auto", "kvm", "tcg"}));
}

TEST_CASE("config: boot's options win key by key, and survive being saved") {
  VmConfig config;
  VmOptions create;
  create.memory = "512M";
  create.cmdline = "";
  create.qemu_args = {"-a"};
  REQUIRE(apply_options(config, create));
  VmOptions boot;
  boot.cpus = "2";
  boot.qemu_args = {"-b", "c"};
  REQUIRE(apply_options(config, boot));
  const VmConfig again = config_from_json(config_to_json(config));
  CHECK(again.memory_bytes == uint64_t{512} << 20);
  CHECK(again.cpus == 2U);
  CHECK(again.cmdline == "");
  CHECK(again.qemu_args == std::vector<std::string>{"-b", "c"});
  CHECK(again.profile == "tiny");
}

TEST_CASE("config: seeds, times and files survive being saved, files win one by one") {
  VmConfig config;
  VmOptions create;
  create.rng_seed = "18446744073709551615";
  create.initial_time = "1700000000.000000001";
  create.files = {"/a:=1", "/b:=2"};
  REQUIRE(apply_options(config, create));
  VmOptions boot;
  boot.files = {"/b:=3", "/c:=4"};
  boot.no_agent = true;
  REQUIRE(apply_options(config, boot));
  const VmConfig again = config_from_json(config_to_json(config));
  CHECK(again.rng_seed == UINT64_MAX);
  CHECK(again.initial_time_ns == 1'700'000'000'000'000'001U);
  REQUIRE(again.files.size() == 3);
  CHECK(again.files[1].text == "3");
  CHECK(again.no_agent);
  CHECK(config_to_json(config)["rng_seed"].is_string());
}

TEST_CASE("config: a saved file of another shape gives defaults") {
  const json odd = {{"profile", 7}, {"qemu_args", {1, "x"}}, {"cmdline", nullptr}, {"cpus", "2"}};
  const VmConfig config = config_from_json(odd);
  CHECK(config.profile == "tiny");
  CHECK(config.qemu_args == std::vector<std::string>{"x"});
  CHECK_FALSE(config.cmdline);
  CHECK_FALSE(config.cpus);
}

TEST_CASE("profile: an unknown one lists the known ones") {
  const auto result = load_profile("huge");
  REQUIRE_FALSE(result);
  CHECK(result.error().code == Code::invalid);
  CHECK((*result.error().extra)["valid"] == json({"tiny"}));
}

TEST_CASE("profile: a missing kernel is reported with field and path") {
  setenv("PV_GUEST_DIR", "/nonexistent/guest", 1);
  const auto result = load_profile("tiny");
  unsetenv("PV_GUEST_DIR");
  REQUIRE_FALSE(result);
  CHECK(result.error().code == Code::unavailable);
  CHECK(result.error().message.find("kernel") != std::string::npos);
  CHECK(result.error().message.find("/nonexistent/guest") != std::string::npos);
}

TEST_CASE("machine: KVM is never chosen where it has a problem") {
  const auto automatic = choose_accel("auto");
  REQUIRE(automatic);
  CHECK(*automatic == (kvm_problem().empty() ? "kvm" : "tcg"));
  CHECK(*choose_accel("tcg") == "tcg");
  if (const auto kvm = choose_accel("kvm"); !kvm) CHECK(kvm.error().code == Code::unavailable);
}
