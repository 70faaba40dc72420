// SPDX-License-Identifier: MIT
// If this fails, a person at a terminal misses a column, sees lines that do not fit the screen, or
// an error that is more than it should be.

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "cli/document.hpp"

using namespace pv;
using namespace pv::cli;

TEST_CASE("a table has every column that any row has, however long or late", "[cli][render]") {
  const std::string text = render_text({{{"v", 1}, {"p", {{"name", "a"}, {"problem", nullptr}}}},
                                        {{"v", 1}, {"p", {{"name", "b"}}}},
                                        {{"v", 1}, {"p", {{"late", "x"}, {"name", "c"}}}},
                                        {{"v", 1}, {"p", {{"problem", std::string(600, 'w')}}}}},
                                       false);
  const auto lines = split(text, '\n');
  REQUIRE(lines.size() == 6);
  for (const char* key : {"name", "problem", "late"})
    CHECK(lines[0].find(key) != std::string::npos);
  const std::string cut = std::string(59, 'w').append("…");
  CHECK(lines[4].find(cut) != std::string::npos);
  CHECK(lines[4].find(std::string(60, 'w')) == std::string::npos);
}

TEST_CASE("a cell is cut between characters and is one line", "[cli][render]") {
  std::string accents;
  for (int i = 0; i < 61; ++i) accents += "é";
  const json row = {{"v", 1}, {"p", {{"a", accents}, {"b", "one\ntwo"}, {"c", "end"}}}};
  const std::string text = render_text({row, row}, false);
  const auto lines = split(text, '\n');
  REQUIRE(lines.size() == 4);
  CHECK(is_utf8(text));
  CHECK(lines[1] == accents.substr(0, 59 * 2) + "…  one two  end");
  // As wide as the limit is not too wide, and nothing is cut in a block.
  const json fits = {{"v", 1}, {"p", {{"a", std::string(60, 'x')}}}};
  CHECK(render_text({fits, fits}, false).find("…") == std::string::npos);
  CHECK(render_text({row}, false).find(accents) != std::string::npos);
}

TEST_CASE("a list of objects in a block is one line for each", "[cli][render]") {
  const json lan = {{"v", 1},
                    {"lan",
                     {{"name", "net"},
                      {"members", {{{"vm", "a"}, {"ip", "10.0.0.1"}}, {{"vm", "b"}}}},
                      {"none", json::array()}}}};
  const std::string text = render_text({lan}, false);
  CHECK(text.find("  members\n    vm=a ip=10.0.0.1\n    vm=b\n") != std::string::npos);
  CHECK(text.find("  none     -\n") != std::string::npos);
}

TEST_CASE("of a console the last lines are shown, without returns and blank ones",
          "[cli][render]") {
  CHECK(render_console("") == "");
  CHECK(render_console("\r\n \r\n") == "");
  CHECK(render_console("one\r\n\r\n\r\ntwo\x1b[0m\r\n$ ") == "  one\n  two\\x1b[0m\n  $ ");
  std::string many;
  for (int i = 0; i < 50; ++i) many += "line " + std::to_string(i) + "\r\n";
  const auto lines = split(render_console(many), '\n');
  REQUIRE(lines.size() == 10);
  CHECK(lines.front() == "  line 40");
  CHECK(lines.back() == "  line 49");
}
