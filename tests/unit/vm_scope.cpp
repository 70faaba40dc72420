// SPDX-License-Identifier: MIT
// If this fails, closing a scope takes what is beside it, or leaves what nobody can find any more.
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "env_var.hpp"
#include "vm/scope/scope.hpp"

using namespace pv;
using namespace pv::test;

namespace {

// A run directory of our own, with $PV_RUN_DIR as before when it goes.
struct OwnRunDir {
  TempDir dir;
  EnvVar env{"PV_RUN_DIR", dir.path("run")};
};

void make_old(const std::string& path) {
  const timespec long_ago[2] = {{1000, 0}, {1000, 0}};
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), long_ago, AT_SYMLINK_NOFOLLOW) == 0);
}

}  // namespace

TEST_CASE("a scope has itself and its paths within, not names that begin alike", "[vm]") {
  CHECK(vm::is_within("ci", "ci"));
  CHECK(vm::is_within("ci/job7", "ci"));
  CHECK(vm::is_within("anything", ""));
  CHECK_FALSE(vm::is_within("city", "ci"));
  CHECK_FALSE(vm::is_within("ci", "ci/job7"));
}

TEST_CASE("a scope's name is below the current scope", "[vm]") {
  const OwnRunDir own;
  const RunDir outer = *RunDir::open("default"), inner = *RunDir::open("ci/a");
  CHECK(*vm::scope_path(outer, "ci/job7") == "ci/job7");
  CHECK(*vm::scope_path(inner, "b") == "ci/a/b");
  for (const char* bad : {"", "/", "a/", "/a", "..", "a//b", "a b", "@vm"})
    CHECK_FALSE(vm::scope_path(outer, bad));
}

TEST_CASE("a teardown takes what is within, and can be done again", "[vm]") {
  const OwnRunDir own;
  for (const char* scope : {"ci", "ci/job7", "city"})
    for (const char* kind : {"vm", "disk", "lan"}) {
      const auto object = RunDir::open(scope)->create(kind, "", "x");
      if (object) REQUIRE(object->save({{"name", "x"}, {"state", "created"}}));
    }
  const RunDir run = *RunDir::open("default");
  const size_t there = vm::objects_within(run, "lan", "ci").size();
  const vm::Teardown done =
      vm::tear_down(run, "ci", vm::Ends::commands, Deadline::in_ns(10 * k_ns_per_s));
  CHECK_FALSE(done.error);
  CHECK(done.document["closed"]["lans"] == there);
  CHECK(vm::objects_within(run, "vm", "ci").empty());
  CHECK(vm::objects_within(run, "vm", "city").size() == 1);
  const vm::Teardown again =
      vm::tear_down(run, "ci", vm::Ends::commands, Deadline::in_ns(10 * k_ns_per_s));
  CHECK(again.document["closed"]["vms"] == 0);
  CHECK(again.document["closed"]["orphans"] == 0);
}

TEST_CASE("what no name leads to is swept, what is young is not", "[base]") {
  const OwnRunDir own;
  const RunDir run = *RunDir::open("default");
  const Object kept = *run.create("vm", "", "kept");
  REQUIRE(kept.save({{"name", "kept"}}));
  const std::string nameless = run.path() + "/obj/0badcafe", young = run.path() + "/obj/00000001";
  const std::string temporary = kept.path("state.json.tmp.4");
  REQUIRE(make_dir(nameless));
  REQUIRE(make_dir(young));
  REQUIRE(write_file_atomic(temporary, "half"));
  make_old(nameless);
  make_old(temporary);
  const std::string dangling = run.path() + "/idx/default/@vm/@/gone";
  REQUIRE(symlink("deadbeef", dangling.c_str()) == 0);
  CHECK(run.strays().size() == 3);
  CHECK(run.sweep() == 3);
  CHECK(run.strays().empty());
  CHECK(access(young.c_str(), F_OK) == 0);
  CHECK(kept.exists());
  CHECK(run.list("vm").size() == 1);
}
