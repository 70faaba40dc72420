// SPDX-License-Identifier: MIT
// If this fails, a provium.toml means something else than it says, or a VM forgets its files.
#include <sys/stat.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "guest/cpio.hpp"
#include "guest/cpio_tree.hpp"
#include "vm/profile/config.hpp"
#include "vm/profile/profile_toml.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

Profile only(const std::string& text) {
  const auto profiles = parse_profiles(text, "/etc/p/provium.toml");
  if (!profiles) FAIL(profiles.error().message);
  REQUIRE(profiles->size() == 1);
  return profiles->front();
}

std::string archive(const std::function<void(guest::CpioWriter&)>& fill) {
  guest::CpioWriter out;
  fill(out);
  auto bytes = out.finish();
  REQUIRE(bytes);
  return *bytes;
}

}  // namespace

TEST_CASE("profile: every key arrives, paths are relative to the file") {
  const Profile p = only(R"([profiles.p]
kernel = "k/../vmlinuz"
initrd = "/i"
cmdline = "console=ttyS0"
guest_os = "linux"
memory = 134217728
cpus = 2
machine = "pc-q35-7.2"
agent = false
qemu_args = ["-s", "-S"]
disks = ["a.img", { id = "b", image = "/b.qcow2", format = "qcow2", read_only = true }]
files = { "/a//b" = "c", "/d" = { text = "\u0000x\n", mode = 0o4755 } }
)");
  CHECK(p.file == "/etc/p/provium.toml");
  CHECK(p.kernel == "/etc/p/vmlinuz");
  CHECK(p.initrd == "/i");
  CHECK(p.memory_bytes == 134217728);
  CHECK(p.cpus == 2);
  CHECK(p.machine == "pc-q35-7.2");
  CHECK_FALSE(p.agent);
  CHECK(p.qemu_args == std::vector<std::string>{"-s", "-S"});
  REQUIRE(p.disks.size() == 2);
  CHECK(p.disks[0].id == "vda");
  CHECK(p.disks[0].image == "/etc/p/a.img");
  CHECK(p.disks[1].read_only);
  REQUIRE(p.files.size() == 2);
  CHECK(p.files[0].dest == "/a/b");
  CHECK(p.files[0].source == "/etc/p/c");
  CHECK(p.files[1].text == std::string("\0x\n", 3));
  CHECK(p.files[1].mode == 04755U);
}

TEST_CASE("profile: letters beyond ASCII, in comments and values") {
  const Profile p = only("# Gr\u00f6\u00dfe \u4e2d\n[profiles.p]\nkernel = \"k\u00e9\u04ff\"\n");
  CHECK(p.kernel == "/etc/p/k\u00e9\u04ff");
  CHECK_FALSE(parse_profiles("[(x]\n", "/p"));
  CHECK_FALSE(parse_profiles("\u00e9 = 1\n", "/p"));
}

TEST_CASE("profile: without a kernel the first disk boots, or the one that says so") {
  Profile p = only("[profiles.p]\ndisks = [\"a\", \"b\"]\n");
  CHECK(p.boots_from_disk());
  CHECK(p.disks[0].boot);
  CHECK_FALSE(p.disks[1].boot);
  p = only("[profiles.p]\ndisks = [\"a\", {image = \"b\", boot = true}]\n");
  CHECK_FALSE(p.disks[0].boot);
  CHECK(p.disks[1].boot);
  CHECK_FALSE(only("[profiles.p]\nbuild = {}\n").boots_from_disk());
}

TEST_CASE("profile: build has a package or a file as its kernel") {
  CHECK(only("[profiles.p]\nbuild.kernel = \"linux-image-amd64\"\n").build->kernel ==
        "linux-image-amd64");
  const Profile p = only("[profiles.p]\nbuild = {kernel=\"bz\", files={\"/x\"=\"y\"}}\n");
  CHECK(p.build->kernel == "/etc/p/bz");
  CHECK(p.build->files == std::vector<std::string>{"/x=/etc/p/y"});
  CHECK(p.build->name == "p");
}

TEST_CASE("guest files: flags, and what a VM remembers of them") {
  const auto text = parse_file_flag("/a=b:=c=d");
  REQUIRE(text);  // the first '=' parts them
  CHECK(text->dest == "/a");
  CHECK_FALSE(text->source.empty());
  std::vector<GuestFile> files = {*parse_file_flag("/x:=a=b"), *parse_file_flag("/y:=")};
  files[0].mode = 0600;
  files[1].text = std::string("\xff\0", 2);
  const auto again = files_from_json(files_to_json(files));
  REQUIRE(again.size() == 2);
  CHECK(again[0].text == "a=b");
  CHECK(again[0].mode == 0600U);
  CHECK(again[1].text == files[1].text);
  lay_over(files, *parse_file_flag("/x:=new"));
  CHECK(files.size() == 2);
  CHECK(files[0].text == "new");
  CHECK(files_from_json({{{"dest", "../x"}}, 7, "x"}).empty());
}

TEST_CASE("guest files: a second archive goes round what the first one has") {
  const std::string first = archive([](guest::CpioWriter& out) {
    out.dir("usr/bin", 0711);
    out.symlink("bin", "usr/bin");
    out.file("etc/x", "data");
  });
  const auto tree =
      guest::read_cpio_tree(first + std::string(8, '\0') + first, Deadline::in_ms(1000));
  REQUIRE(tree);
  CHECK(tree->at("bin").target == "usr/bin");
  CHECK(tree->at("usr/bin").type == S_IFDIR);
  const std::string second = archive([&](guest::CpioWriter& out) {
    for (const auto& [path, node] : *tree) out.assume(path, node.type, node.target);
    out.file("bin/new/tool", "x");
  });
  const auto added = guest::read_cpio_tree(second, Deadline::in_ms(1000));
  REQUIRE(added);
  // Neither the link nor the folder with its mode is written again.
  CHECK(added->size() == 2);
  CHECK(added->count("usr/bin/new") == 1);
  CHECK(added->count("usr/bin/new/tool") == 1);
}

TEST_CASE("guest files: an archive cut anywhere is an error or its beginning, never a crash") {
  const std::string whole = archive([](guest::CpioWriter& out) {
    out.file("a", "data");
    out.symlink("b", "a");
  });
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto tree = guest::read_cpio_tree(whole.substr(0, size), Deadline::in_ms(1000));
    if (tree) CHECK(tree->size() <= 2);
  }
  CHECK_FALSE(guest::read_cpio_tree("no archive", Deadline::in_ms(1000)));
}
