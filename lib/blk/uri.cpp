// SPDX-License-Identifier: MIT
#include "blk/uri.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::blk {
namespace {

size_t scheme_length(std::string_view text) {
  size_t n = 0;
  while (n < text.size() && (isalnum(static_cast<unsigned char>(text[n])) != 0 ||
                             (n > 0 && strchr("+-.", text[n]) != nullptr)))
    ++n;
  return n < text.size() && text[n] == ':' && n > 0 ? n : 0;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int lower = tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

bool decode(std::string_view text, std::string& out) {
  out.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return false;
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return false;  // %00 ends every C string
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return true;
}

tl::unexpected<Error> malformed(std::string_view text, std::string_view why) {
  return fail(Code::usage, fmt::format("'{}' is no URI of an image: {}", text, why));
}

// [user@]host[:port]
Result<> parse_authority(std::string_view text, std::string_view authority, Uri& uri) {
  const size_t at = authority.rfind('@');
  if (at != std::string_view::npos) {
    const std::string_view user = authority.substr(0, at);
    // The message does not repeat the text: it holds a password.
    if (user.find(':') != std::string_view::npos)
      return fail(Code::usage, "a password in a URI would be seen in the process list");
    if (!decode(user, uri.user)) return malformed(text, "the user is not well encoded");
    authority.remove_prefix(at + 1);
  }
  size_t colon = authority.rfind(':');
  if (!authority.empty() && authority[0] == '[') {  // an IPv6 address
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return malformed(text, "']' is missing");
    colon = authority.size() > end + 1 ? end + 1 : std::string_view::npos;
    if (colon != std::string_view::npos && authority[colon] != ':')
      return malformed(text, "something follows ']'");
    uri.host = authority.substr(1, end - 1);
  } else if (!decode(authority.substr(0, colon), uri.host)) {
    return malformed(text, "the host is not well encoded");
  }
  if (colon == std::string_view::npos) return {};
  uri.port = authority.substr(colon + 1);
  const bool digits = uri.port.find_first_not_of("0123456789") == std::string::npos;
  if (uri.port.empty() || !digits || uri.port.size() > 5 || std::stoul(uri.port) > 65535)
    return malformed(text, fmt::format("'{}' is no port", uri.port));
  return {};
}

Result<> parse_query(std::string_view text, std::string_view query, Uri& uri) {
  for (const std::string& pair : split(query, '&')) {
    const size_t equals = pair.find('=');
    std::string key, value;
    if (equals == std::string::npos || !decode(std::string_view(pair).substr(0, equals), key) ||
        !decode(std::string_view(pair).substr(equals + 1), value))
      return malformed(text, fmt::format("'{}' is not key=value", pair));
    if (!uri.query.emplace(key, value).second)
      return malformed(text, fmt::format("'{}' is there twice", key));
  }
  return {};
}

}  // namespace

bool is_uri(std::string_view text) {
  const size_t n = scheme_length(text);
  return n != 0 && (text.substr(n, 3) == "://" || text.substr(0, n) == "rbd");
}

Result<Uri> parse_uri(std::string_view text) {
  Uri uri;
  const size_t n = scheme_length(text);
  if (n == 0) return malformed(text, "it has no scheme");
  uri.scheme = text.substr(0, n);
  for (char& c : uri.scheme) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  for (const char c : text)
    if (static_cast<unsigned char>(c) <= ' ' || c == 127)
      return malformed(printable(text), "it holds a blank or a control character");
  std::string_view rest = text.substr(n + 1);
  if (rest.substr(0, 2) != "//") {
    uri.path = rest;  // opaque: its scheme has rules of its own
    return uri;
  }
  rest.remove_prefix(2);
  rest = rest.substr(0, rest.find('#'));
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    TRY(parse_query(text, rest.substr(mark + 1), uri));
    rest = rest.substr(0, mark);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  TRY(parse_authority(text, rest.substr(0, slash), uri));
  if (!decode(rest.substr(slash), uri.path)) return malformed(text, "the path is not well encoded");
  return uri;
}

}  // namespace pv::blk
