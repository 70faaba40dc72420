// SPDX-License-Identifier: MIT
// If this fails, two different requests share one image, an image misses a module or loads it too
// early, or package lists are misread.
#include <initializer_list>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../catch.hpp"
#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "guest/apt.hpp"
#include "guest/guest.hpp"
#include "guest/key.hpp"
#include "guest/libraries.hpp"
#include "guest/modules.hpp"

using namespace pv;
using namespace pv::guest;

namespace {

std::string temp_dir() {
  char path[] = "/tmp/pv-guest-XXXXXX";
  REQUIRE(mkdtemp(path));
  return path;
}

ModuleTree tree_of(std::initializer_list<const char*> names) {
  ModuleTree tree;
  tree.version = "6.1";
  for (const char* name : names) tree.files[name] = "";
  return tree;
}

}  // namespace

TEST_CASE("guest key: every input counts", "[guest]") {
  const Recipe base{{"kernel a", "busybox b"}, {"ext4", "xfs"}, {{"etc/a", 0644, "1"}}};
  const std::string key = image_key(base);
  CHECK(key.size() == 32);
  CHECK(image_key(base) == key);
  std::vector<Recipe> others(8, base);
  others[0].sources[0] = "kernel a2";
  others[1].sources = {"kernel abusybox b"};
  others[2].modules.pop_back();
  others[3].files[0].dest = "etc/b";
  others[4].files[0].mode = 0755;
  others[5].files[0].data = "2";
  others[6].files.clear();
  others[7].modules = {"ext4xfs"};
  for (size_t i = 0; i < others.size(); ++i) {
    INFO(i);
    CHECK(image_key(others[i]) != key);
  }
  Recipe same = base;
  same.modules = {"xfs", "ext4", "xfs"};
  CHECK(image_key(same) == key);
}

TEST_CASE("guest files: DEST=SRC", "[guest]") {
  const auto code = [](const char* spec) { return load_user_files({spec}).error().code; };
  CHECK(code("etc/x=/bin/true") == Code::usage);
  CHECK(code("/etc/x") == Code::usage);
  CHECK(code("/etc/x=") == Code::usage);
  CHECK(code("=/bin/true") == Code::usage);
  CHECK(code("/a/../../x=/bin/true") == Code::usage);
  CHECK(code("/x=/bin") == Code::usage);
  CHECK(code("/x=/does/not/exist") == Code::system);
  const auto files = load_user_files({"//opt//true=/bin/true"}).value();
  CHECK(files[0].dest == "opt/true");
  CHECK(files[0].mode == 0755);
}

TEST_CASE("modules: names", "[guest]") {
  CHECK(module_name("virtio-rng") == "virtio_rng");
  CHECK(module_name("kernel/drivers/virtio-rng.ko.xz") == "virtio_rng");
  CHECK(module_name("ext4.ko") == "ext4");
}

TEST_CASE("modules: near names", "[guest]") {
  ModuleTree tree = tree_of({"virtio_blk", "virtio_pci", "btrfs"});
  tree.builtin = {"ext4"};
  CHECK(near_names(tree, "ext5") == std::vector<std::string>{"ext4"});
  CHECK(near_names(tree, "virtio_bkl").front() == "virtio_blk");
  CHECK(near_names(tree, "virtio").size() == 2);
  CHECK(near_names(tree, "completely_else").empty());
  CHECK(near_names(tree, std::string(100'000, 'x')).empty());
}

TEST_CASE("modules: built in, missing, unknown, broken", "[guest]") {
  const Deadline deadline = Deadline::in_ms(5000);
  ModuleTree tree = tree_of({});
  tree.builtin = {"ext4"};
  const auto set =
      close_modules(tree, {{"ext4"}, {"button", WantedModule::Missing::is_fine}}, deadline).value();
  CHECK(set.load_order.empty());
  CHECK(set.builtin == std::vector<std::string>{"ext4"});
  CHECK(set.missing == std::vector<std::string>{"button"});
  const auto unknown = close_modules(tree, {{"ext3"}}, deadline);
  CHECK(unknown.error().code == Code::usage);
  CHECK((*unknown.error().extra)["valid"][0] == "ext4");
  const std::string dir = temp_dir();
  DEFER(remove_tree(dir));
  REQUIRE(write_file_atomic(dir + "/bad.ko", "no ELF"));
  const ModuleTree broken = index_modules(dir, "6.1").value();
  CHECK(close_modules(broken, {{"bad"}}, deadline).error().code == Code::invalid);
}

TEST_CASE("libraries: closure of a real program, in one root only", "[guest]") {
  const Libraries closure = close_libraries("", "/bin/sh").value();
  CHECK_FALSE(closure.interpreter.empty());
  bool libc = false, loader = false;
  for (const Library& each : closure.libraries) {
    libc = libc || each.soname == "libc.so.6";
    loader = loader || each.soname.compare(0, 3, "ld-") == 0;
  }
  CHECK(libc);
  CHECK(loader);
  CHECK(close_libraries("/does/not/exist", "/bin/sh").error().code == Code::unavailable);
}

TEST_CASE("apt: what it prints", "[guest]") {
  const DependencyGraph graph = parse_dependencies(
      "qemu-guest-agent\n  PreDepends: init-system-helpers\n  Depends: libc6\n |Depends: liba\n"
      "  Depends: <virtual:any>\n    perl\nlibc6\n  Depends: libgcc-s1\n\n");
  CHECK(graph.at("qemu-guest-agent") ==
        std::vector<std::string>{"init-system-helpers", "libc6", "liba"});
  CHECK(graph.at("libc6") == std::vector<std::string>{"libgcc-s1"});
  const auto packages = parse_uris(
      "'http://h/b.deb' busybox-static_1%3a1.35_amd64.deb 928188 SHA256:aa\nnoise\n"
      "'http://h/c' ../x_1_all.deb 5 S\n'http://h/d' d_1_all.deb many S\n'short\n");
  REQUIRE(packages.size() == 1);
  CHECK(packages[0].name == "busybox-static");
  CHECK(packages[0].size_bytes == 928188);
}

TEST_CASE("guest images: nothing built, and a folder of one's own", "[guest]") {
  const std::string dir = temp_dir();
  DEFER(remove_tree(dir); unsetenv("PV_CACHE_DIR"); unsetenv("PV_GUEST_DIR"));
  setenv("PV_CACHE_DIR", (dir + "/cache").c_str(), 1);
  unsetenv("PV_GUEST_DIR");
  const auto none = find_tiny();
  CHECK(none.error().code == Code::unavailable);
  CHECK(none.error().message.find("pv-vm guest build") != std::string::npos);
  CHECK(find("../x").error().code == Code::usage);
  // A link that leads elsewhere is not followed.
  REQUIRE(make_dirs(dir + "/cache/guest"));
  REQUIRE(symlink("/etc", (dir + "/cache/guest/tiny").c_str()) == 0);
  CHECK(find_tiny().error().code == Code::unavailable);
  setenv("PV_GUEST_DIR", dir.c_str(), 1);
  CHECK(find_tiny().error().code == Code::unavailable);
  REQUIRE(write_file_atomic(dir + "/kernel", "k"));
  REQUIRE(write_file_atomic(dir + "/initrd", "i"));
  CHECK(find_tiny().value().kernel == dir + "/kernel");
  const json removed = clean(Deadline::in_ms(1000)).value();
  CHECK(access((dir + "/cache/guest").c_str(), F_OK) != 0);
  CHECK(access((dir + "/kernel").c_str(), F_OK) == 0);
}
