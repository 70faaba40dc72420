// SPDX-License-Identifier: MIT
// If this fails, an error changes its code, its errno or its exit class on the way through a pipe.
#include <cerrno>
#include <set>

#include "../catch.hpp"
#include "base/error.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/text.hpp"

using namespace pv;

TEST_CASE("every code has a name, comes back from it, and has an exit class of the table",
          "[base]") {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(Code::bug); ++i) {
    const Code code = static_cast<Code>(i);
    CHECK(code_from_name(code_name(code)) == code);
    names.insert(code_name(code));
    const std::set<int> classes = {2, 3, 4, 5, 6, 7, 70};
    CHECK(classes.count(exit_class(code)) == 1);
  }
  CHECK(names.size() == static_cast<size_t>(Code::bug) + 1);
  CHECK(code_from_name("a code of a later version") == Code::bug);
  CHECK(exit_class(Code::usage) == 2);
  CHECK(exit_class(Code::bad_mode) == 2);
  CHECK(exit_class(Code::bad_document) == 3);
  CHECK(exit_class(Code::io) == 4);
  CHECK(exit_class(Code::system) == 5);
  CHECK(exit_class(Code::timeout) == 6);
  CHECK(exit_class(Code::unavailable) == 7);
}

TEST_CASE("every errno of this system has a name that leads back to it", "[base]") {
  for (int err = 1; err < 134; ++err) {
    const std::string name = errno_name(err);
    INFO(name);
    const int back = errno_from_name(name);
    CHECK((back == err || strerrorname_np(err) == nullptr));
  }
  CHECK(errno_from_name("ENOTSUP") == ENOTSUP);
  CHECK(errno_from_name("EOPNOTSUPP") == ENOTSUP);
  CHECK(errno_from_name("EWOULDBLOCK") == EAGAIN);
  CHECK(errno_name(ENOTSUP) == "ENOTSUP");
  CHECK(errno_from_name("EWRONG") == 0);
  CHECK(errno_from_name("") == 0);
  CHECK(errno_from_name("eio") == 0);
  CHECK(errno_name(999) == "E999");
}

TEST_CASE("an error survives being a document", "[base]") {
  const Error error = Error(Code::io, "it broke", EIO).with("rule", "r1").with("injected", true);
  const auto document = parse_json(to_line(error_to_json(error)));
  REQUIRE(document);
  const Error back = error_from_json(*document);
  CHECK(back.code == Code::io);
  CHECK(back.message == "it broke");
  CHECK(back.sys_errno == EIO);
  CHECK(error_to_json(back) == error_to_json(error));
}

TEST_CASE("an error document of strange types does not throw", "[base]") {
  for (const char* text :
       {"{}", "{\"code\":7,\"message\":[],\"errno\":{}}", "{\"code\":null}", "[]", "7"}) {
    const Error error = error_from_json(*parse_json(text));
    CHECK(exit_class(error.code) == 70);
  }
}
