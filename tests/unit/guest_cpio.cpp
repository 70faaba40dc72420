// SPDX-License-Identifier: MIT
// If this fails, the kernel cannot unpack the initial RAM disk, or unpacks something else.
#include <sys/stat.h>
#include <unistd.h>

#include "../catch.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "guest/cpio.hpp"

using namespace pv;
using guest::CpioWriter;

namespace {

std::string sample() {
  CpioWriter out;
  out.symlink("sbin", "usr/bin");
  out.file("/usr/bin/tool", "#!/bin/sh\n", 0755);
  out.file("etc/odd", "12345", 0640, {7, 8});
  out.char_device("dev/console", 0600, 5, 1);
  out.dir("tmp", 01777);
  auto bytes = out.finish();
  REQUIRE(bytes);
  return *bytes;
}

Code code_of(CpioWriter& out) {
  const auto bytes = out.finish();
  return bytes ? Code::bug : bytes.error().code;
}

}  // namespace

TEST_CASE("cpio: header and padding are those of newc", "[guest]") {
  CpioWriter out;
  out.file("ab", "xyz", 0755, {1, 2});
  const std::string bytes = out.finish().value();
  CHECK(bytes.substr(0, 110) ==
        "070701"
        "00000001"
        "000081ED"
        "00000001"
        "00000002"
        "00000001"
        "00000000"
        "00000003"
        "00000000"
        "00000000"
        "00000000"
        "00000000"
        "00000003"
        "00000000");
  // The name with its NUL, padded with the header to 4; then the data, padded to 4.
  CHECK(bytes.substr(110, 10) == std::string("ab\0\0\0\0xyz\0", 10));
  CHECK(bytes.find("TRAILER!!!") != std::string::npos);
  CHECK(bytes.size() % 512 == 0);
}

TEST_CASE("cpio: the same entries give the same bytes", "[guest]") {
  CHECK(sample() == sample());
}

TEST_CASE("cpio: cpio(1) reads it back", "[guest]") {
  char path[] = "/tmp/pv-cpio-XXXXXX";
  const Fd fd(mkstemp(path));
  REQUIRE(write_all(fd.get(), sample()));
  auto list =
      run_program({"cpio", "-itv", "--numeric-uid-gid", "-F", path}, Deadline::in_ms(10'000));
  unlink(path);
  if (!list && list.error().code == Code::unavailable) {
    WARN("skipped: cpio is not installed");
    return;
  }
  REQUIRE(list);
  INFO(list->out << list->err);
  CHECK(list->status.code == 0);
  CHECK(list->out.find("sbin -> usr/bin") != std::string::npos);
  CHECK(list->out.find("-rwxr-xr-x   1 0        0              10 ") != std::string::npos);
  CHECK(list->out.find("-rw-r-----   1 7        8               5 ") != std::string::npos);
  CHECK(list->out.find("crw-------   1 0        0          5,   1 ") != std::string::npos);
  CHECK(list->out.find("drwxrwxrwt ") != std::string::npos);
  // Parents come before what is in them.
  CHECK(list->out.find("1970 usr\n") < list->out.find("1970 usr/bin\n"));
  CHECK(list->out.find("1970 usr/bin\n") < list->out.find("1970 usr/bin/tool\n"));
}

TEST_CASE("cpio: a parent that is a link is followed", "[guest]") {
  CpioWriter out;
  out.symlink("sbin", "usr/bin");
  out.symlink("usr/sbin", "bin");
  out.file("sbin/one", "1");
  out.file("usr/sbin/two", "2");
  const std::string bytes = out.finish().value();
  CHECK(bytes.find(std::string("usr/bin/one\0", 12)) != std::string::npos);
  CHECK(bytes.find(std::string("usr/bin/two\0", 12)) != std::string::npos);
  CHECK(bytes.find("sbin/one") == std::string::npos);
}

TEST_CASE("cpio: what the kernel would unpack wrongly is refused", "[guest]") {
  const char* paths[] = {"", "/", "..", "a/../b", "/.", "a/b/.."};
  for (const char* path : paths) {
    CpioWriter out;
    out.file(path, "x");
    INFO(path);
    CHECK(code_of(out) == Code::usage);
  }
  CpioWriter file_under_file;
  file_under_file.file("a", "1");
  file_under_file.file("a/b", "2");
  CHECK(code_of(file_under_file) == Code::usage);
  CpioWriter file_over_dir;
  file_over_dir.dir("a");
  file_over_dir.file("a", "2");
  CHECK(code_of(file_over_dir) == Code::usage);
  CpioWriter loop;
  loop.symlink("a", "b");
  loop.symlink("b", "a");
  loop.file("a/c", "1");
  CHECK(code_of(loop) == Code::usage);
  CpioWriter outside;
  outside.symlink("a", "../..");
  outside.file("a/c", "1");
  CHECK(code_of(outside) == Code::usage);
}
