// SPDX-License-Identifier: MIT
// If this fails, foreign bytes (documents, base64, guest output, sizes that people type) are read
// as something else than they are.
#include <utility>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

using namespace pv;
using namespace pv::test;

namespace {

json random_json(Rng& rng, int depth) {
  switch (rng.below(depth > 0 ? 8 : 6)) {
    case 0:
      return nullptr;
    case 1:
      return rng.below(2) == 0;
    case 2:
      return rng.next();
    case 3:
      return static_cast<int64_t>(rng.next());
    case 4:
      return static_cast<double>(rng.below(1 << 20)) / 64;
    case 5: {
      std::string text;
      for (uint64_t n = rng.below(12); n > 0; --n)
        text += std::vector<std::string>{
            "a", "\"", "\\", "\n", "ä", "\x01", "€", "😀", "/"}[rng.below(9)];
      return text;
    }
    case 6: {
      json list = json::array();
      for (uint64_t n = rng.below(4); n > 0; --n) list.push_back(random_json(rng, depth - 1));
      return list;
    }
    default: {
      json object = json::object();
      for (uint64_t n = rng.below(4); n > 0; --n)
        object[fmt::format("k{}", rng.below(100))] = random_json(rng, depth - 1);
      return object;
    }
  }
}

// An encoder of its own: the code points of RFC 3629.
std::string utf8(uint32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 63)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

}  // namespace

TEST_CASE("JSON that was written is read back the same", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int i = 0; i < 500; ++i) {
    const json value = random_json(rng, 4);
    const std::string line = to_line(value);
    CHECK(line.find('\n') == std::string::npos);
    const auto back = parse_json(line);
    REQUIRE(back);
    CHECK(to_line(*back) == line);
  }
}

TEST_CASE("JSON that two readers could read differently is refused", "[base]") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "}",
                           "[1,]",
                           "{\"a\":1,}",
                           "{'a':1}",
                           "{a:1}",
                           "nul",
                           "01",
                           "1 2",
                           "{} {}",
                           "\"\xff\"",
                           "\"\n\"",
                           "NaN",
                           "{\"a\":1,\"a\":1}",
                           "{\"x\":{\"a\":1,\"b\":2,\"a\":3}}",
                           "[{\"a\":1,\"a\":2}]",
                           "{\"a\":1,\"\\u0061\":2}",
                           "// c\n1",
                           "\"\\ud800\""}) {
    INFO(text);
    const auto value = parse_json(text);
    CHECK_FALSE(value);
    if (!value) CHECK(value.error().code == Code::bad_document);
  }
  CHECK(parse_json("{\"a\":{\"b\":1},\"c\":{\"b\":1}}"));
  CHECK(parse_json("[{\"a\":1},{\"a\":2}]"));
  CHECK(parse_json(std::string(64, '[') + std::string(64, ']')));
  CHECK_FALSE(parse_json(std::string(65, '[') + std::string(65, ']')));
  CHECK_FALSE(parse_json(std::string(1'000'000, '[')));
  CHECK(parse_json("\"" + std::string(100, '[') + "\""));
  CHECK(parse_json("\"\\\"" + std::string(100, '{') + "\""));
}

TEST_CASE("base64 brings every byte back, and refuses what is none", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (size_t n = 0; n < 200; ++n) {
    const std::string bytes = random_bytes(rng, n);
    const std::string text = base64_encode(bytes);
    CHECK(text.size() == (n + 2) / 3 * 4);
    const auto back = base64_decode(text);
    REQUIRE(back);
    CHECK(*back == bytes);
  }
  CHECK(base64_encode("Man") == "TWFu");
  CHECK(base64_encode("Ma") == "TWE=");
  for (const char* text :
       {"A", "AB", "ABC", "====", "A===", "AB=C", "AB==ABCD", "AB C", "AB-_", "ABC\n"}) {
    INFO(text);
    CHECK_FALSE(base64_decode(text));
  }
}

TEST_CASE("UTF-8 is what RFC 3629 says", "[base]") {
  for (uint32_t c = 0; c < 0x120000; c += c < 0x11000 ? 1 : 97) {
    const bool good = c < 0xd800 || (c > 0xdfff && c <= 0x10ffff);
    if (is_utf8(utf8(c)) != good) FAIL_CHECK("code point " << c);
    const std::string whole = utf8(c);
    if (whole.size() > 1 && is_utf8(whole.substr(0, whole.size() - 1))) FAIL_CHECK("cut " << c);
  }
  for (const char* bytes : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xf0\x80\x80\x80",
                            "\xf5\x80\x80\x80", "\xff", "a\xffz"})
    CHECK_FALSE(is_utf8(bytes));
  json object;
  set_text(object, "out", "caf\xe9");
  CHECK(object["out_b64"] == base64_encode("caf\xe9"));
  CHECK(parse_json(to_line(object)));
  json plain;
  set_text(plain, "out", "café");
  CHECK_FALSE(plain.contains("out_b64"));
}

TEST_CASE("what is printed for people holds no control characters", "[base]") {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  for (const char c : printable(all))
    CHECK((static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t'));
  CHECK(printable("\x1b[31m") == "\\x1b[31m");
}

TEST_CASE("split and join are each other's inverse", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::string> parts(1 + rng.below(5));
    for (std::string& part : parts) part = std::string(rng.below(3), 'x');
    CHECK(split(join(parts, ","), ',') == parts);
  }
}

TEST_CASE("typed access never throws, whatever is there", "[base]") {
  for (const char* text :
       {"null", "7", "\"x\"", "[]", "{}", "{\"k\":null}", "{\"k\":-1}", "{\"k\":1.5}",
        "{\"k\":\"s\"}", "{\"k\":[]}", "{\"k\":true}", "{\"k\":18446744073709551615}"}) {
    const json value = *parse_json(text);
    static_cast<void>(get_string(value, "k"));
    static_cast<void>(get_bool(value, "k"));
    CHECK((get_u64(value, "k", 5) == 5 || get_u64(value, "k") == UINT64_MAX));
  }
  CHECK(get_u64(json{{"k", 3}}, "k") == 3);
}

TEST_CASE("sizes are bytes in powers of 1024", "[base]") {
  const std::pair<const char*, uint64_t> good[] = {{"0", 0},
                                                   {"512", 512},
                                                   {"64k", 65536},
                                                   {"64K", 65536},
                                                   {"4KiB", 4096},
                                                   {"4kb", 4096},
                                                   {"1.5G", 1610612736},
                                                   {"1b", 1},
                                                   {"8388607T", 8388607ULL << 40},
                                                   {"9223372036854775807", INT64_MAX},
                                                   {"0.5k", 512}};
  for (const auto& [text, bytes] : good) {
    INFO(text);
    const auto size = parse_size(text);
    REQUIRE(size);
    CHECK(*size == bytes);
  }
  for (const char* text : {"",
                           " ",
                           "k",
                           "-1",
                           "+1",
                           "1 k",
                           " 1",
                           "1 ",
                           "0x10",
                           "1e3",
                           "1.",
                           ".5",
                           "1..2",
                           "1kk",
                           "1x",
                           "1ki",
                           "9223372036854775808",
                           "8388608T",
                           "99999999999999999999999",
                           "8192P",
                           "nan",
                           "inf",
                           "1\n"}) {
    INFO(text);
    const auto size = parse_size(text);
    CHECK_FALSE(size);
    if (!size) CHECK(size.error().code == Code::usage);
  }
}

TEST_CASE("a size that was formatted without a fraction is parsed back", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int i = 0; i < 500; ++i) {
    const uint64_t bytes = rng.below(1023) + 1;
    const uint64_t value = bytes << (10 * rng.below(5));
    std::string text = format_size(value);
    text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
    INFO(text);
    const auto back = parse_size(text);
    REQUIRE(back);
    CHECK(*back == value);
  }
}

TEST_CASE("durations have units, and a bare number is seconds", "[base]") {
  const std::pair<const char*, uint64_t> good[] = {
      {"2", 2 * k_ns_per_s},       {"50ms", 50 * k_ns_per_ms},
      {"100us", 100'000},          {"250ns", 250},
      {"1.5m", 90 * k_ns_per_s},   {"1h", 3600 * k_ns_per_s},
      {"0.05s", 50 * k_ns_per_ms}, {"0", 0},
      {"2min", 120 * k_ns_per_s}};
  for (const auto& [text, ns] : good) {
    INFO(text);
    const auto duration = parse_duration(text);
    REQUIRE(duration);
    CHECK(*duration == ns);
  }
  for (const char* text : {"", "ms", "-1s", "1 s", "1sec", "1d", "1..5s", "99999999999h", "s1"}) {
    INFO(text);
    CHECK_FALSE(parse_duration(text));
  }
}

TEST_CASE("names are what a path, a socket and a shell can bear", "[base]") {
  for (const std::string& name :
       {std::string("a"), std::string("v1.2_x-y"), std::string(64, 'x'), std::string("0")})
    CHECK(check_name("disk", name));
  for (const std::string& name :
       {std::string(), std::string(65, 'x'), std::string("."), std::string(".."), std::string("-a"),
        std::string("_a"), std::string("a/b"), std::string("a b"), std::string("a\n"),
        std::string("ä"), std::string("a\0b", 3)})
    CHECK_FALSE(check_name("disk", name));
}
