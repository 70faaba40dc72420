// SPDX-License-Identifier: MIT
// If this fails, a provium.toml with a letter beyond ASCII in it is misread, or a mistake in it is
// said to be elsewhere.
#include <string>

#include "../catch.hpp"
#include "vm/profile/toml_tree.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

std::string text_of(const std::string& document) {
  const auto root = parse_toml(document, "/p");
  REQUIRE(root);
  REQUIRE(root->find("a"));
  return root->find("a")->text;
}

std::string error_of(const std::string& document) {
  const auto root = parse_toml(document, "/p");
  REQUIRE_FALSE(root);
  CHECK(root.error().code == Code::invalid);
  return root.error().message;
}

}  // namespace

TEST_CASE("toml: a letter beyond ASCII in every kind of string, in a comment, behind a mark") {
  CHECK(text_of("\xef\xbb\xbf# \u00e9\na = \"\u00e9\"") == "\u00e9");
  CHECK(text_of("a = '\u00e9' # \u4e2d 'x\n") == "\u00e9");
  CHECK(text_of("a = '''\n\u00e9'\\'''# \u00e9") == "\u00e9'\\");
  CHECK(text_of("a = \"\"\"\u00e9\"\"\u00e9\"\"\"\"\"# \u00e9") == "\u00e9\"\"\u00e9\"\"");
  CHECK(text_of("a = \"\\\"\u00e9\\\\\" # \u00e9") == "\"\u00e9\\");
  CHECK(text_of("b = \"\" # \u00e9\n'\u00e9' = ''\na = '\u00fc'\n") == "\u00fc");
}

TEST_CASE("toml: a line that goes on with a letter beyond ASCII") {
  // U+00E9, U+3057, U+FFFD and U+1F600: one of each width, two of them in the table's gaps.
  for (const char* letter : {"\u00e9", "\u3057", "\ufffd", "\U0001f600"}) {
    const std::string text = std::string("a = \"\"\"x\\ \n \n\t") + letter + "y\"\"\"";
    CHECK(text_of(text) == std::string("x") + letter + "y");
    // What stands behind it is where it was.
    const std::string two = std::string("a = [\"\"\"\\\n") + letter + "\"\"\", 7]\n";
    const auto root = parse_toml(two, "/p");
    REQUIRE(root);
    CHECK(root->find("a")->items.at(1).place.line == 2);
    CHECK(root->find("a")->items.at(1).place.column == 7);
    CHECK(error_of(two + "b =").rfind("/p:3:", 0) == 0);
  }
}

TEST_CASE("toml: a letter beyond ASCII where there can be none") {
  CHECK_THAT(error_of("\u00e9 = 1\n"), Catch::Matchers::EndsWith("comments, saw '\u00e9'"));
  CHECK_THAT(error_of("a = 1\n\u3000\n"), Catch::Matchers::EndsWith("saw '\u3000'"));
  CHECK_THAT(error_of("a = 1\r\u00e9\n"), Catch::Matchers::EndsWith("saw '\\u00E9'"));
  // The place, and that of a mistake which comes before.
  CHECK(error_of("a\u00e9 = 1\n").rfind("/p:1:2: ", 0) == 0);
  CHECK(error_of("a = \"\u00fc\" \u00e9\n").rfind("/p:1:9: ", 0) == 0);
  CHECK(error_of("a = \"\"\"\\\u00e9\"\"\"\n").rfind("/p:1:9: ", 0) == 0);
  CHECK(error_of("a = [1,\u00e9]\n").rfind("/p:1:8: ", 0) == 0);
  CHECK(error_of("a = \"x\n\u00e9 = 1\n").rfind("/p:1:7: ", 0) == 0);
  CHECK(error_of("a = 0\"\u00e9\"\n").rfind("/p:1:", 0) == 0);
  CHECK(error_of("[(x]\n").rfind("/p:1:2: ", 0) == 0);
  // Not UTF-8: cut off, too long, a surrogate.
  for (const char* bad : {"a = '\xe9'", "a = '\xc3", "\xc1\xa9", "a = '\xed\xa0\x80'", "a = \x80"})
    CHECK(error_of(bad).rfind("/p:1:", 0) == 0);
}

TEST_CASE("toml: characters of every plane stay what they are") {
  const std::string all = "\u0080\u07ff\u0800\uffff\U00010000\U000400e9\U0005ffff\U0010fffd";
  CHECK(text_of("a = '" + all + "'") == all);
  CHECK(text_of("a = \"\u00e9\\U000400E9\\U000500e9\"") == "\u00e9\U000400e9\U000500e9");
  std::string every;
  for (char plane = 4; plane <= 13; ++plane)
    every += {static_cast<char>('\xf0' | plane >> 2), static_cast<char>('\x80' | (plane & 3) << 4),
              '\x80', '\x80'};
  CHECK_THAT(error_of("a = '" + every + "'"), contains_text("every plane"));
  CHECK(text_of("a = '" + every.substr(4) + "\u00e9'") == every.substr(4) + "\u00e9");
}
