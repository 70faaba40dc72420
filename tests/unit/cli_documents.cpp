// SPDX-License-Identifier: MIT
// If this fails, a document of a batch is lost, taken for another, or spoiled by a bad neighbour.
#include <sys/mman.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "cli/document.hpp"

using namespace pv;
using namespace pv::cli;

namespace {

Result<std::vector<Result<json>>> read(const std::string& text) {
  const Fd file(memfd_create("input", MFD_CLOEXEC));
  REQUIRE(write_all(file.get(), text));
  lseek(file.get(), 0, SEEK_SET);
  return read_documents(file.get(), "stdin");
}

}  // namespace

TEST_CASE("a batch is one document per line, in order, or one over many lines", "[cli]") {
  auto one = read("{\n \"v\": 1,\n \"n\": {\n }\n}\n");
  REQUIRE(one);
  REQUIRE(one->size() == 1);
  CHECK((*one)[0].has_value());
  auto three = read("\n{\"v\":1,\"n\":0}\r\n\n{\"v\":1,\"n\":1}\n  {\"v\":1,\"n\":2}");
  REQUIRE(three);
  REQUIRE(three->size() == 3);
  for (int n = 0; n < 3; ++n) CHECK((*(*three)[static_cast<size_t>(n)])["n"] == n);
}

TEST_CASE("a bad document is an error in its place, with its line", "[cli]") {
  const char* bad = GENERATE("{", "[]", "7", "{\"v\":2}", "{}", "{\"v\":1,\"v\":1}", "\xff");
  auto all = read(std::string("{\"v\":1}\n") + bad + "\n\n{\"v\":1}\n");
  INFO(bad);
  REQUIRE(all);
  REQUIRE(all->size() == 3);
  CHECK((*all)[0].has_value());
  CHECK((*all)[2].has_value());
  REQUIRE_FALSE((*all)[1].has_value());
  CHECK((*all)[1].error().code == Code::bad_document);
  CHECK((*all)[1].error().message.find("line 2") != std::string::npos);
}

TEST_CASE("what holds no document at all, or too many, is one error", "[cli]") {
  std::string many;
  for (size_t i = 0; i < k_max_documents; ++i) many += "{\"v\":1}\n";
  auto most = read(many);
  REQUIRE(most);
  CHECK(most->size() == k_max_documents);
  for (const std::string& text :
       {std::string(""), std::string(" \n\n"), std::string("x\ny\n"), std::string("{\n\"v\":\n"),
        many + "{\"v\":1}\n", std::string("\0\0", 2)}) {
    const auto none = read(text);
    REQUIRE_FALSE(none);
    CHECK(none.error().code == Code::bad_document);
  }
}
