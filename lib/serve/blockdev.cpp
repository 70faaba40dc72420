// SPDX-License-Identifier: MIT
#include "serve/blockdev.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::serve {
namespace {

using blk::Uri;

tl::unexpected<Error> bad(const std::string& text, std::string_view form) {
  return fail(Code::usage, fmt::format("'{}' is not of the form {}", text, form));
}

// Names a part of the query that nobody knows.
Result<> only(const Uri& uri, const std::string& text, std::vector<std::string> known) {
  for (const auto& [key, value] : uri.query) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return fail(Error(Code::usage, fmt::format("'{}': unknown option '{}' (options: {})", text, key,
                                               known.empty() ? "none" : join(known, " ")))
                    .with("valid", known));
  }
  return {};
}

Result<json> from_http(const Uri& uri, const std::string& text) {
  if (uri.host.empty()) return bad(text, uri.scheme + "://HOST[:PORT]/PATH");
  return json{{"driver", uri.scheme}, {"url", text}};
}

// An upstream in a format other than raw: the daemon is its client.
Result<json> from_nbd(const Uri& uri, const std::string& text) {
  TRY(only(uri, text, {"socket"}));
  const auto socket = uri.query.find("socket");
  json server;
  if (uri.scheme == "nbd+unix") {
    if (socket == uri.query.end()) return bad(text, "nbd+unix:///[EXPORT]?socket=PATH");
    server = {{"type", "unix"}, {"path", socket->second}};
  } else {
    if (uri.host.empty() || socket != uri.query.end())
      return bad(text, "nbd://HOST[:PORT]/[EXPORT]");
    server = {
        {"type", "inet"}, {"host", uri.host}, {"port", uri.port.empty() ? "10809" : uri.port}};
  }
  json node = {{"driver", "nbd"}, {"server", server}};
  if (uri.path.size() > 1) node["export"] = uri.path.substr(1);
  return node;
}

// host_key_check of QEMU's ssh URIs: yes (known_hosts), no, or md5:, sha1:, sha256: and a hash.
Result<json> host_key_check(const std::string& text, const std::string& value) {
  if (value == "yes") return json{{"mode", "known_hosts"}};
  if (value == "no") return json{{"mode", "none"}};
  const size_t colon = std::min(value.find(':'), value.size());
  const std::string type = value.substr(0, colon);
  if ((type == "md5" || type == "sha1" || type == "sha256") && colon + 1 < value.size())
    return json{{"mode", "hash"}, {"type", type}, {"hash", value.substr(colon + 1)}};
  return fail(Code::usage, fmt::format("'{}': host_key_check is yes, no, md5:HASH, sha1:HASH or "
                                       "sha256:HASH",
                                       text));
}

Result<json> from_ssh(const Uri& uri, const std::string& text) {
  TRY(only(uri, text, {"host_key_check"}));
  if (uri.host.empty() || uri.path.size() < 2) return bad(text, "ssh://[USER@]HOST[:PORT]/PATH");
  json node = {{"driver", "ssh"},
               {"server", {{"host", uri.host}, {"port", uri.port.empty() ? "22" : uri.port}}},
               {"path", uri.path}};
  if (!uri.user.empty()) node["user"] = uri.user;
  if (const auto check = uri.query.find("host_key_check"); check != uri.query.end()) {
    TRY_ASSIGN(node["host-key-check"], host_key_check(text, check->second));
  }
  return node;
}

// Splits at `separator`; a backslash takes the next character as it is (qemu_rbd_next_tok).
std::vector<std::string> split_escaped(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      if (separator == ':') parts.back() += text[i];  // for the next split
      parts.back() += text[++i];
    } else if (text[i] == separator) {
      parts.emplace_back();
    } else {
      parts.back() += text[i];
    }
  }
  return parts;
}

// rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:id=USER][:conf=FILE], as in qemu-img(1).
Result<json> from_rbd(const Uri& uri, const std::string& text) {
  constexpr const char* k_form = "rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:id=USER][:conf=FILE]";
  std::vector<std::string> options = split_escaped(uri.path, ':');
  std::string name = options.front();
  json node = {{"driver", "rbd"}};
  if (const size_t at = name.rfind('@');
      at != std::string::npos && at > 0 && name[at - 1] != '\\') {
    node["snapshot"] = name.substr(at + 1);
    name.resize(at);
  }
  const std::vector<std::string> parts = split_escaped(name, '/');
  if (parts.size() < 2 || parts.size() > 3) return bad(text, k_form);
  for (const std::string& part : parts)
    if (part.empty()) return bad(text, k_form);
  node["pool"] = parts.front();
  if (parts.size() == 3) node["namespace"] = parts[1];
  node["image"] = parts.back();
  for (size_t i = 1; i < options.size(); ++i) {
    const size_t equals = std::min(options[i].find('='), options[i].size() - 1);
    const std::string key = options[i].substr(0, equals);
    const std::vector<std::string> value =
        split_escaped(std::string_view(options[i]).substr(equals + 1), '\0');
    if (key == "id")
      node["user"] = value.front();
    else if (key == "conf")
      node["conf"] = value.front();
    else
      return fail(Code::usage, fmt::format("'{}': '{}' is neither id= nor conf=; the rest of "
                                           "rbd's options is for --blockdev",
                                           text, options[i]));
  }
  return node;
}

Result<json> from_nvme(const Uri& uri, const std::string& text) {
  constexpr const char* k_form = "nvme://DDDD:BB:SS.F/NAMESPACE";
  TRY(only(uri, text, {}));
  const std::string digits = uri.path.empty() ? "" : uri.path.substr(1);
  if (digits.empty() || digits.size() > 9 ||
      digits.find_first_not_of("0123456789") != std::string::npos || digits[0] == '0')
    return bad(text, k_form);
  return json{{"driver", "nvme"}, {"device", uri.host}, {"namespace", std::stoul(digits)}};
}

struct Scheme {
  const char* name;
  Result<json> (*make)(const Uri& uri, const std::string& text);
};
constexpr Scheme k_schemes[] = {
    {"http", from_http}, {"https", from_http}, {"nbd", from_nbd}, {"nbd+unix", from_nbd},
    {"nvme", from_nvme}, {"rbd", from_rbd},    {"ssh", from_ssh},
};

// The PCI address of nvme:// has colons that are no port.
Result<Uri> parse_nvme(const std::string& text) {
  Uri uri;
  uri.scheme = "nvme";
  const std::string rest = text.substr(std::string_view("nvme://").size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  uri.host = rest.substr(0, slash);
  uri.path = rest.substr(slash);
  unsigned domain = 0, bus = 0, slot = 0, function = 0;
  int used = 0;
  if (sscanf(uri.host.c_str(), "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &used) != 4 ||
      static_cast<size_t>(used) != uri.host.size())
    return bad(text, "nvme://DDDD:BB:SS.F/NAMESPACE");
  return uri;
}

}  // namespace

Result<json> blockdev_of_uri(const std::string& text) {
  Result<Uri> uri = text.rfind("nvme://", 0) == 0 ? parse_nvme(text) : blk::parse_uri(text);
  if (!uri) return fail(uri.error());
  std::vector<std::string> known;
  for (const Scheme& scheme : k_schemes) {
    if (uri->scheme == scheme.name) return scheme.make(*uri, text);
    known.emplace_back(scheme.name);
  }
  return fail(Error(Code::usage,
                    fmt::format("unknown scheme '{}' (schemes: {})", uri->scheme, join(known, " ")))
                  .with("valid", known));
}

bool is_read_only_scheme(std::string_view scheme) {
  return scheme == "http" || scheme == "https";
}

json blockdev_of_image(json file, const NodeOptions& options) {
  file["read-only"] = options.read_only;
  file["discard"] = "unmap";
  if (options.direct) file["cache"] = {{"direct", true}};
  json node = {{"driver", options.format},
               {"node-name", k_node_name},
               {"read-only", options.read_only},
               {"discard", "unmap"},
               {"detect-zeroes", "off"}};
  if (options.direct) node["cache"] = {{"direct", true}};
  if (options.key && options.format == "luks") node["key-secret"] = k_secret_id;
  if (options.key && options.format == "qcow2")
    node["encrypt"] = {{"format", "luks"}, {"key-secret", k_secret_id}};
  node["file"] = std::move(file);
  return node;
}

Result<json> blockdev_of_user(const std::string& text, bool read_only) {
  auto node = parse_json(text);
  if (!node) return fail(Code::usage, "--blockdev: " + node.error().message);
  if (!node->is_object() || get_string(*node, "driver").empty())
    return fail(Code::usage, "--blockdev is not a JSON object with a \"driver\"");
  if (node->contains("node-name"))
    return fail(Code::usage, "--blockdev: \"node-name\" is ours to give");
  (*node)["node-name"] = k_node_name;
  if (read_only) (*node)["read-only"] = true;
  return node;
}

}  // namespace pv::serve
