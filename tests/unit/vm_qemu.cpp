// SPDX-License-Identifier: MIT
// If this fails, a QEMU is taken for another one, or a snapshot for one that this machine can go on
// with; and what no machine of ours could ever try, KVM, is not even what was meant.
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "env_var.hpp"
#include "snap/restore.hpp"
#include "vm/hardware.hpp"
#include "vm/machine.hpp"

using namespace pv;
using namespace pv::test;

namespace {

void write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

// A QEMU that says what it is told to, and a run directory that has never seen one.
class FakeQemu {
 public:
  FakeQemu() { says("7.2.22", "-chardev socket,id=id[,reconnect=seconds]"); }
  ~FakeQemu() { unlink(path_.c_str()); }

  void says(const std::string& version, const std::string& help) {
    write(path_, "#!/bin/sh\ncase $* in -version) echo 'QEMU emulator version " + version +
                     " (D)' ;; -help) echo '" + help + "' ;; esac\n");
    REQUIRE(chmod(path_.c_str(), 0700) == 0);
  }
  vm::Qemu found() const {
    const auto qemu = vm::find_qemu(run);
    REQUIRE(qemu);
    return *qemu;
  }

 private:
  TempDir dir_;
  std::string path_ = "/tmp/pv-qemu." + std::to_string(getpid());  // /dev/shm may run nothing
  EnvVar run_dir_{"PV_RUN_DIR", dir_.path("run")};
  EnvVar qemu_{"PV_QEMU", path_};

 public:
  const RunDir run = *RunDir::open("default");
};

constexpr const char* k_intel =
    "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu vmx hypervisor\n\nprocessor\t: 1\n";

snap::Bundle bundle_of(const json& hardware) {
  snap::Bundle bundle;
  bundle.dir = "/snap";
  bundle.manifest = {{"saved", {{"hardware", hardware}}},
                     {"disks", json::object()},
                     {"files", json::array({{{"name", "ram"}}})}};
  return bundle;
}

std::string what_differs(const RunDir& run, const json& hardware) {
  const auto checked = snap::check(run, bundle_of(hardware), false);
  REQUIRE_FALSE(checked);
  if (checked.error().code != Code::incompatible) return checked.error().message;
  return (*checked.error().extra)["differs"][0];
}

}  // namespace

TEST_CASE("a QEMU is asked for what it can do, once, and again when it is another", "[vm]") {
  FakeQemu fake;
  vm::Qemu qemu = fake.found();
  CHECK(qemu.version == "7.2.22");
  CHECK_FALSE(qemu.reconnect_ms);
  CHECK_FALSE(qemu.loads_files);
  fake.says("10.0.13", "-chardev socket,id=id[,reconnect-ms=n]\n-incoming file:name[,offset=n]");
  for (int again = 0; again < 2; ++again) {
    qemu = fake.found();
    CHECK(qemu.version == "10.0.13");
    CHECK(qemu.reconnect_ms);
    CHECK(qemu.loads_files);
  }
  // That of a network card is no word on that of a socket.
  fake.says("9.1.0", "-netdev stream,id=str[,reconnect-ms=n]\n-incoming exec:file:x");
  CHECK_FALSE(fake.found().reconnect_ms);
  CHECK_FALSE(fake.found().loads_files);
}

TEST_CASE("a snapshot of another QEMU is incompatible, and so is one of KVM without", "[snap]") {
  const FakeQemu fake;
  CHECK(what_differs(fake.run, {{"qemu_version", "10.0.13"}, {"accel", "tcg"}}) == "qemu_version");
  CHECK(what_differs(fake.run, {{"qemu_version", "7.2.2"}, {"accel", "tcg"}}) == "qemu_version");
  const char* here = vm::kvm_problem().empty() ? "host_cpu" : "accel";
  CHECK(what_differs(fake.run, {{"qemu_version", "7.2.22"}, {"accel", "kvm"}, {"host_cpu", "x"}}) ==
        here);
  // This one comes as far as its files, which are not there.
  CHECK_THAT(what_differs(fake.run, {{"qemu_version", "7.2.22"}, {"accel", "tcg"}}),
             contains_text("/snap/ram"));
}

TEST_CASE("kvm: what it takes, and what a snapshot remembers of the processor", "[vm]") {
  const TempDir dir;
  const std::string cpuinfo = dir.path("cpuinfo");
  write(cpuinfo, k_intel);
  CHECK(vm::kvm_problem("/dev/null", cpuinfo).empty());
  CHECK_THAT(vm::kvm_problem(dir.path("none"), cpuinfo), contains_text("No such file"));
  CHECK(vm::host_cpu("kvm", cpuinfo) == " Some CPU fpu vmx hypervisor");
  CHECK(vm::host_cpu("tcg", cpuinfo).empty());
  const json host = vm::kvm_host(cpuinfo);
  CHECK(host["processor"] == "Some CPU");
  CHECK(host["virtual"] == true);
  write(cpuinfo, "processor\t: 0\nmodel name\t: Other\nflags\t\t: fpu svmx vmxs hypervisors\n");
  CHECK_THAT(vm::kvm_problem("/dev/null", cpuinfo), contains_text("neither vmx nor svm"));
  CHECK(vm::kvm_host(cpuinfo)["virtual"] == false);
  write(cpuinfo, "flags\t\t: fpu svm\n");
  CHECK(vm::kvm_problem("/dev/null", cpuinfo).empty());
}

TEST_CASE("kvm: the guest has the host's processor, and so must the one that goes on", "[vm]") {
  vm::Machine m;
  m.profile.machine = "q35";
  m.accel = "kvm";
  const json hardware = vm::hardware_to_json(m);
  CHECK(hardware["accel"] == "kvm");
  CHECK(hardware["host_cpu"] == vm::host_cpu("kvm"));
  vm::Machine again;
  REQUIRE(vm::hardware_from_json(hardware, again));
  const auto argv = vm::build_argv(again);
  const auto has = [&](const char* option, const char* value) {
    for (size_t i = 0; i + 1 < argv.size(); ++i)
      if (argv[i] == option) return argv[i + 1] == value;
    return false;
  };
  CHECK(has("-accel", "kvm"));
  CHECK(has("-cpu", "host"));
}
