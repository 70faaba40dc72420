// SPDX-License-Identifier: MIT
// The parts of streams that need no VM: reading QEMU's text, seconds, who holds what.
#include <rapidcheck/catch.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "vm/access/clock.hpp"
#include "vm/access/scripts.hpp"
#include "vm/supervisor/data_ports.hpp"
#include "vm/supervisor/holders.hpp"

namespace pv::vm {
namespace {

// As QEMU 7.2 prints it.
constexpr std::string_view k_qtree =
    "          dev: virtserialport, id \"data0\"\r\n"
    "            nr = 2 (0x2)\r\n"
    "            port 2, guest on, host on, throttle on\r\n"
    "          dev: virtserialport, id \"data10\"\r\n"
    "            nr = 12 (0xc)\r\n"
    "            port 12, guest off, host on, throttle off\r\n";

}  // namespace

TEST_CASE("a port is throttled when its own line says so", "[vm][streams]") {
  CHECK(is_throttled(k_qtree, 2));
  CHECK_FALSE(is_throttled(k_qtree, 12));
  CHECK_FALSE(is_throttled(k_qtree, 1));  // not a part of 12
  CHECK_FALSE(is_throttled("", 2));
  for (size_t cut = 0; cut <= k_qtree.size(); ++cut)
    CHECK_FALSE(is_throttled(k_qtree.substr(0, cut), 12));
}

TEST_CASE("seconds are read to the nanosecond, and nothing else is", "[vm][streams]") {
  CHECK(parse_seconds("0", "t").value() == 0);
  CHECK(parse_seconds("1.5", "t").value() == 1'500'000'000);
  CHECK(parse_seconds("-0.000000001", "t").value() == -1);
  CHECK(parse_seconds("+7.25", "t").value() == 7'250'000'000);
  CHECK(parse_seconds("9223372036.854775807", "t").value() == INT64_MAX);
  for (const char* text : {"", "-", ".", ".5", "1.", "1.0000000001", "nan", "inf", "-inf", "1e3",
                           "0x10", " 1", "1 ", "--1", "1.5.5", "9223372036.854775808"}) {
    CAPTURE(text);
    REQUIRE_FALSE(parse_seconds(text, "t"));
    CHECK(parse_seconds(text, "t").error().code == Code::usage);
  }
}

TEST_CASE("any time that is written as seconds is read back", "[vm][streams]") {
  rc::prop("round trip", [](int64_t ns) {
    RC_PRE(ns != INT64_MIN);
    const int64_t size = ns < 0 ? -ns : ns;
    char text[64];
    snprintf(text, sizeof text, "%s%lld.%09lld", ns < 0 ? "-" : "",
             static_cast<long long>(size / 1'000'000'000),
             static_cast<long long>(size % 1'000'000'000));
    RC_ASSERT(parse_seconds(text, "t").value() == ns);
  });
}

TEST_CASE("who holds a guest is listed with what is known of it", "[vm][streams]") {
  Holders holders;
  CHECK(holders.list() == json::array());
  holders.add(1, getpid(), {{"kind", "put"}, {"caller", std::string(1000, 'c')}});
  holders.add(2, 0, {{"kind", "nonsense"}});
  const json list = holders.list();
  REQUIRE(list.size() == 2);
  CHECK(list[0]["kind"] == "put");
  CHECK(list[0]["pid"] == getpid());
  CHECK_THAT(list[0]["command"].get<std::string>(), contains_text("pv-test"));
  CHECK(list[0]["command"].get<std::string>().size() <= 200);
  CHECK(list[0]["caller"].get<std::string>().size() == 200);
  CHECK(list[1]["kind"] == "run");
  CHECK(list[1]["command"] == "");
  CHECK_FALSE(list[1].contains("caller"));
  CHECK(holders.transfers() == 1);
  holders.remove(1);
  CHECK(holders.transfers() == 0);
  CHECK(holders.find(1) == nullptr);
}

TEST_CASE("scripts for the guest are sh of any kind", "[vm][streams]") {
  for (const std::string* script :
       {&k_run_script, &k_captured_script, &k_put_script, &k_get_script}) {
    const pid_t child = fork();
    if (child == 0) {
      execl("/bin/sh", "sh", "-n", "-c", script->c_str(), nullptr);
      _exit(127);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  CHECK(script_failure(62, "/x", "")->message.find("'/x'") != std::string::npos);
  CHECK(script_failure(63, "", "y")->message.find("'y'") != std::string::npos);
  CHECK_FALSE(script_failure(9, "", ""));
}

}  // namespace pv::vm
