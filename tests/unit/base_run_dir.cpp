// SPDX-License-Identifier: MIT
// If this fails, two commands get the same name, a name is found in the wrong scope, or a file is
// replaced by half of another.
#include <atomic>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <iterator>
#include <map>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/run_dir.hpp"
#include "env_var.hpp"

using namespace pv;
using namespace pv::test;

namespace {

// PV_RUN_DIR for the length of a test.
struct RunDirEnv {
  TempDir dir;
  EnvVar env{"PV_RUN_DIR", dir.path("run")};
};

RunDir scope(std::string_view name) {
  auto run = RunDir::open(name);
  REQUIRE(run);
  return *run;
}

}  // namespace

TEST_CASE("a name exists once: in its scope, and below an outer one that has it", "[base]") {
  RunDirEnv env;
  const RunDir outer = scope("ci"), inner = scope("ci/job"), other = scope("cix");
  REQUIRE(outer.create("vm", "", "v"));
  for (const RunDir* run : {&outer, &inner}) {
    const auto twice = run->create("vm", "", "v");
    REQUIRE_FALSE(twice);
    CHECK(twice.error().code == Code::duplicate_name);
  }
  CHECK(other.create("vm", "", "v"));
  CHECK(outer.create("disk", "", "v"));
  CHECK(outer.create("disk", "v", "v"));
  CHECK(inner.find("vm", "", "v"));
  CHECK(inner.find("vm", "", "v")->scope == "ci");
  CHECK_FALSE(scope("c").find("vm", "", "v"));
  REQUIRE(inner.create("vm", "", "w"));
  CHECK_FALSE(outer.find("vm", "", "w"));
}

TEST_CASE("an object has its state before it has its name", "[base]") {
  RunDirEnv env;
  const RunDir run = scope("default");
  const json state = {{"state", "created"}};
  std::atomic<int> without{0};
  for (int round = 0; round < 200; ++round) {
    std::thread looker([&] {
      auto found = run.find("vm", "", "v");
      while (!found) found = run.find("vm", "", "v");
      if (!found->load()) ++without;
    });
    const auto made = run.create("vm", "", "v", &state);
    looker.join();
    REQUIRE(made);
    run.remove(*made);
  }
  CHECK(without == 0);
  // A name that is taken leaves nothing of the second behind.
  REQUIRE(run.create("vm", "", "v", &state));
  CHECK_FALSE(scope("default").create("vm", "", "v", &state));
  CHECK(std::distance(std::filesystem::directory_iterator(run.path() + "/obj"), {}) == 1);
}

TEST_CASE("a process that is asked to end leaves no object without a name", "[base]") {
  RunDirEnv env;
  const RunDir run = scope("default");
  int made = 0;
  for (int round = 0; round < 200; ++round) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      signal(SIGTERM, SIG_DFL);
      for (int number = 0;; ++number)
        static_cast<void>(run.create("disk", "", fmt::format("d{}", number), nullptr));
    }
    while (run.list("disk").size() < 3) sched_yield();
    kill(child, SIGTERM);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM));
    for (const Object& disk : run.list("disk")) {
      run.remove(disk);
      ++made;
    }
    REQUIRE(std::filesystem::is_empty(run.path() + "/obj"));
  }
  CHECK(made >= 600);
}

TEST_CASE("threads that create one name at once: exactly one has it", "[base]") {
  RunDirEnv env;
  const RunDir run = scope("default");
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> won{0}, lost{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        const auto made = run.create("disk", "", "d");
        if (made)
          ++won;
        else if (made.error().code == Code::duplicate_name)
          ++lost;
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(won == 1);
    CHECK(lost == 3);
    run.remove(*run.find("disk", "", "d"));
    CHECK_FALSE(run.find("disk", "", "d"));
  }
}

TEST_CASE("what is created, found, listed and removed is what a map would say", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  RunDirEnv env;
  const std::vector<std::string> scopes = {"a", "a/b", "a/b/c", "d"}, owners = {"", "v", "w"};
  std::map<std::string, Object> model;
  const auto key = [](const std::string& s, const std::string& o, const std::string& n) {
    return s + "|" + o + "|" + n;
  };
  for (int step = 0; step < 400; ++step) {
    const std::string& in = scopes[rng.below(4)];
    const std::string& owner = owners[rng.below(3)];
    const std::string name = "n" + std::to_string(rng.below(4));
    const RunDir run = scope(in);
    std::string holder;
    for (std::string s = in; !s.empty();
         s = s.find('/') == std::string::npos ? "" : s.substr(0, s.rfind('/')))
      if (holder.empty() && model.count(key(s, owner, name)) != 0) holder = s;
    const auto found = run.find("disk", owner, name);
    CHECK(found.has_value() == !holder.empty());
    if (found) CHECK(found->scope == holder);
    if (rng.below(3) != 0) {
      const auto made = run.create("disk", owner, name);
      CHECK(made.has_value() == holder.empty());
      if (made) model[key(in, owner, name)] = *made;
    } else if (found) {
      run.remove(*found);
      run.remove(*found);  // idempotent
      model.erase(key(holder, owner, name));
    }
    CHECK(scope("d").list("disk", true).size() == model.size());
  }
  for (const auto& [text, object] : model) scope(object.scope).remove(object);
  std::error_code error;
  CHECK(std::filesystem::is_empty(env.dir.path("run/obj"), error));
  CHECK(std::filesystem::is_empty(env.dir.path("run/idx"), error));
}

TEST_CASE("names that a path could misread are refused", "[base]") {
  RunDirEnv env;
  for (const char* name : {"", ".", "..", "a/b", "@", "-x", "a b"}) {
    CHECK_FALSE(scope("default").create("disk", "", name));
    CHECK_FALSE(RunDir::open(name == std::string("a/b") ? "a//b" : name));
  }
  CHECK_FALSE(RunDir::open("/a"));
  CHECK_FALSE(RunDir::open("a/"));
}

TEST_CASE("a link in the index that points out of the run directory is not followed", "[base]") {
  RunDirEnv env;
  const RunDir run = scope("default");
  const auto disk = run.create("disk", "", "good");
  REQUIRE(disk);
  const std::string index = env.dir.path("run/idx/default/@disk/@/");
  REQUIRE(symlink("../../../../etc", (index + "bad").c_str()) == 0);
  REQUIRE(symlink("/etc", (index + "worse").c_str()) == 0);
  CHECK_FALSE(run.find("disk", "", "bad"));
  CHECK_FALSE(run.find("disk", "", "worse"));
  CHECK(run.list("disk").size() == 1);
}

TEST_CASE("state is replaced whole: a reader never sees half of it", "[base]") {
  RunDirEnv env;
  const auto disk = scope("default").create("disk", "", "d");
  REQUIRE(disk);
  REQUIRE(disk->save({{"n", 0}, {"fill", std::string(4000, 'x')}}));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int n = 0; !stop; ++n)
      static_cast<void>(
          disk->save({{"n", n}, {"fill", std::string(static_cast<size_t>(n % 9000), 'x')}}));
  });
  int whole = 0;
  for (int i = 0; i < 300; ++i) whole += disk->load().has_value();
  stop = true;
  writer.join();
  CHECK(whole == 300);
  CHECK_FALSE(disk->load()->empty());
}

TEST_CASE("a lock is held by one, and waiting for it ends at the deadline", "[base]") {
  RunDirEnv env;
  const auto disk = scope("default").create("disk", "", "d");
  REQUIRE(disk);
  {
    const auto held = disk->lock(Deadline::in_ms(5000));
    REQUIRE(held);
    const auto second = disk->lock(Deadline::in_ms(10));
    REQUIRE_FALSE(second);
    CHECK(second.error().code == Code::timeout);
  }
  CHECK(disk->lock(Deadline::in_ms(5000)));
}

TEST_CASE("removing an object leaves a successor of the same name alone", "[base]") {
  RunDirEnv env;
  const RunDir run = scope("default");
  const auto old = run.create("disk", "", "d");
  REQUIRE(old);
  run.remove(*old);
  const auto successor = run.create("disk", "", "d");
  REQUIRE(successor);
  run.remove(*old);  // a second close that comes late
  REQUIRE(run.find("disk", "", "d"));
  CHECK(run.find("disk", "", "d")->dir == successor->dir);
}

TEST_CASE("a copy has the data of its source and its holes", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  TempDir dir;
  const std::string from = dir.path("from"), to = dir.path("to");
  Fd in(open(from.c_str(), O_RDWR | O_CREAT, 0600)), out(open(to.c_str(), O_RDWR | O_CREAT, 0600));
  constexpr off_t k_size = (8 << 20) + 777;
  REQUIRE(ftruncate(in.get(), k_size) == 0);
  for (int i = 0; i < 5; ++i) {
    const std::string bytes = random_bytes(rng, 1 + rng.below(70'000));
    REQUIRE(pwrite(in.get(), bytes.data(), bytes.size(), static_cast<off_t>(rng.below(8 << 20))) >
            0);
  }
  REQUIRE(ftruncate(in.get(), k_size) == 0);
  REQUIRE(copy_sparse(in.get(), out.get()));
  CHECK((*read_file(from, 1 << 30) == *read_file(to, 1 << 30)));
  struct stat a {
  }, b{};
  fstat(in.get(), &a);
  fstat(out.get(), &b);
  CHECK(b.st_blocks <= a.st_blocks + 64);
}
