// SPDX-License-Identifier: MIT
#include "io_op.hpp"

#define XXH_INLINE_ALL
#include <algorithm>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/text.hpp"
#include "blk/disk.hpp"
#include "serve/control_ops.hpp"

namespace pv::diskcmd {
namespace {

// What a line may have; `ops` is empty for a key that every operation takes.
struct Key {
  const char* name;
  std::vector<blk::Op> ops;
};
const Key k_keys[] = {
    {"op", {}},
    {"id", {}},
    {"expect", {}},
    {"offset_bytes",
     {blk::Op::read, blk::Op::write, blk::Op::discard, blk::Op::zero, blk::Op::map,
      blk::Op::cache}},
    {"length_bytes",
     {blk::Op::read, blk::Op::write, blk::Op::discard, blk::Op::zero, blk::Op::map,
      blk::Op::cache}},
    {"b64", {blk::Op::write}},
    {"pattern", {blk::Op::write}},
    {"fua", {blk::Op::write, blk::Op::discard, blk::Op::zero}},
    {"no_unmap", {blk::Op::zero}},
    {"data", {blk::Op::read}},
};
constexpr const char* k_expect_keys[] = {"errno", "code", "b64", "pattern", "xxh3"};

tl::unexpected<Error> bad(std::string message) {
  return fail(Code::bad_document, std::move(message));
}

Result<> check_keys(const json& line, blk::Op op) {
  for (const auto& [name, value] : line.items()) {
    const Key* known = nullptr;
    for (const Key& key : k_keys)
      if (name == key.name) known = &key;
    const bool fits =
        known && (known->ops.empty() ||
                  std::find(known->ops.begin(), known->ops.end(), op) != known->ops.end());
    if (fits) continue;
    return bad(fmt::format("{} has no key '{}'", blk::op_name(op), printable(name)));
  }
  for (const char* name : {"fua", "no_unmap", "data"})
    if (const json* value = find(line, name); value && !value->is_boolean())
      return bad(fmt::format("'{}' is not true or false", name));
  return {};
}

Result<uint64_t> number(const json& line, const char* key) {
  const json* value = find(line, key);
  if (!value || !value->is_number_unsigned())
    return bad(fmt::format("'{}' is not a number of bytes", key));
  return value->get<uint64_t>();
}

// "0xab", "171" or 171: one byte.
Result<char> pattern_byte(const json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() <= 0xff)
    return static_cast<char>(value.get<uint64_t>());
  const std::string text = value.is_string() ? value.get<std::string>() : "";
  char* end = nullptr;
  const unsigned long byte = strtoul(text.c_str(), &end, 0);
  if (text.empty() || isdigit(static_cast<unsigned char>(text[0])) == 0 || *end != '\0' ||
      byte > 0xff)
    return bad(fmt::format("'pattern' {} is not a byte, as \"0xab\"", to_line(value)));
  return static_cast<char>(byte);
}

Result<std::string> write_payload(const json& line) {
  const json* b64 = find(line, "b64");
  const json* pattern = find(line, "pattern");
  if ((b64 == nullptr) == (pattern == nullptr))
    return bad("write needs either 'b64' or 'pattern' with 'length_bytes'");
  if (pattern) {
    TRY_ASSIGN(const uint64_t length, number(line, "length_bytes"));
    if (length > serve::k_max_host_io)
      return bad(fmt::format("more than {} bytes at once", serve::k_max_host_io));
    TRY_ASSIGN(const char byte, pattern_byte(*pattern));
    return std::string(length, byte);
  }
  auto bytes = base64_decode(b64->is_string() ? b64->get<std::string>() : "!");
  if (!bytes) return bad("'b64' is not base64");
  const json* length = find(line, "length_bytes");
  if (length && *length != bytes->size())
    return bad(fmt::format("'b64' has {} bytes, not 'length_bytes'", bytes->size()));
  return bytes;
}

Result<> check_expect(const json& expect, blk::Op op) {
  if (!expect.is_object()) return bad("'expect' is not an object");
  for (const auto& [name, value] : expect.items()) {
    if (std::find(std::begin(k_expect_keys), std::end(k_expect_keys), name) ==
        std::end(k_expect_keys))
      return bad(fmt::format("'expect' has no key '{}'", printable(name)));
    const bool about_data = name != "errno" && name != "code";
    if (about_data && op != blk::Op::read)
      return bad(fmt::format("'expect.{}' belongs to read", name));
    if (name == "pattern") {
      TRY(pattern_byte(value));
    } else if (!value.is_string()) {
      return bad(fmt::format("'expect.{}' is not text", name));
    }
    if (name == "errno" && errno_from_name(value.get<std::string>()) == 0)
      return bad(fmt::format("'{}' is no errno", printable(value.get<std::string>())));
    if (name == "code" && code_from_name(value.get<std::string>()) == Code::bug)
      return bad(fmt::format("'{}' is no error code", printable(value.get<std::string>())));
  }
  return {};
}

bool as_expected(const json& expect, const Error& error) {
  const std::string name = get_string(expect, "errno"), code = get_string(expect, "code");
  if (name.empty() && code.empty()) return false;
  return (name.empty() || name == errno_name(error.sys_errno)) &&
         (code.empty() || code == code_name(error.code));
}

bool as_expected(const json& expect, std::string_view data, const std::string& hash) {
  if (!expect.is_object()) return true;
  if (expect.contains("errno") || expect.contains("code")) return false;
  if (const json* want = find(expect, "xxh3"); want && *want != hash) return false;
  if (const json* want = find(expect, "b64"); want && *want != base64_encode(data)) return false;
  const json* pattern = find(expect, "pattern");
  if (!pattern) return true;
  return data.find_first_not_of(pattern_byte(*pattern).value_or('\0')) == std::string_view::npos;
}

}  // namespace

uint64_t IoOp::bytes() const {
  const std::string op = get_string(request, "op");
  return op == "read" || op == "write" ? get_u64(request, "length_bytes") : 0;
}

Result<IoOp> parse_io_op(std::string_view text, uint64_t line) {
  TRY_ASSIGN(const json given, parse_json(text));
  if (!given.is_object()) return bad("not an object");
  const std::string name = get_string(given, "op");
  blk::Op op;
  if (!blk::op_from_name(name, op))
    return bad(name.empty() ? "no 'op'" : fmt::format("unknown op '{}'", printable(name)));
  TRY(check_keys(given, op));
  IoOp result;
  result.line = line;
  result.request["op"] = name;
  if (const json* id = find(given, "id")) result.id = *id;
  if (const json* expect = find(given, "expect")) {
    TRY(check_expect(*expect, op));
    result.expect = *expect;
  }
  if (op == blk::Op::flush) return result;
  TRY_ASSIGN(result.request["offset_bytes"], number(given, "offset_bytes"));
  if (op == blk::Op::write) {
    TRY_ASSIGN(result.payload, write_payload(given));
    result.request["length_bytes"] = result.payload.size();
  } else {
    TRY_ASSIGN(result.request["length_bytes"], number(given, "length_bytes"));
  }
  if (result.bytes() > serve::k_max_host_io)
    return bad(fmt::format("more than {} bytes at once", serve::k_max_host_io));
  if (op == blk::Op::read) result.request["raw"] = true;
  result.show_data = get_bool(given, "data", true);
  for (const char* flag : {"fua", "no_unmap"})
    if (get_bool(given, flag)) result.request[flag] = true;
  if (!result.payload.empty()) result.request["raw_bytes"] = result.payload.size();
  return result;
}

json io_result(const IoOp& op, const Result<json>& reply, std::string_view data) {
  json out = {{"line", op.line}};
  if (!op.id.is_null()) out["id"] = op.id;
  const std::string name = get_string(op.request, "op");
  out["op"] = name;
  for (const char* key : {"offset_bytes", "length_bytes"})
    if (const json* value = find(op.request, key)) out[key] = *value;
  if (!reply) {
    out["ok"] = as_expected(op.expect, reply.error());
    out["error"] = error_to_json(reply.error());
    return out;
  }
  std::string hash;
  if (name == "read") hash = fmt::format("{:016x}", XXH3_64bits(data.data(), data.size()));
  out["ok"] = as_expected(op.expect, data, hash);
  if (name == "read" && op.show_data) out["b64"] = base64_encode(data);
  if (name == "read") out["xxh3"] = hash;
  if (const json* extents = find(*reply, "extents")) out["extents"] = *extents;
  return out;
}

}  // namespace pv::diskcmd
