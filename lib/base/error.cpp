// SPDX-License-Identifier: MIT
#include "base/error.hpp"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/json.hpp"

namespace pv {
namespace {

struct CodeRow {
  Code code;
  std::string_view name;
  int exit;
};

constexpr CodeRow k_codes[] = {
    {Code::usage, "usage", 2},
    {Code::bad_mode, "bad_mode", 2},
    {Code::bad_rule, "bad_rule", 2},
    {Code::bad_document, "bad_document", 3},
    {Code::wrong_state, "wrong_state", 4},
    {Code::no_such_vm, "no_such_vm", 4},
    {Code::no_such_disk, "no_such_disk", 4},
    {Code::no_such_lan, "no_such_lan", 4},
    {Code::no_such_rule, "no_such_rule", 4},
    {Code::no_such_snapshot, "no_such_snapshot", 4},
    {Code::duplicate_name, "duplicate_name", 4},
    {Code::detached, "detached", 4},
    {Code::no_image, "no_image", 4},
    {Code::in_use, "in_use", 4},
    {Code::out_of_range, "out_of_range", 4},
    {Code::io, "io", 4},
    {Code::medium, "medium", 4},
    {Code::read_only, "read_only", 4},
    {Code::reservation_conflict, "reservation_conflict", 4},
    {Code::unsupported, "unsupported", 4},
    {Code::unsupported_eject, "unsupported_eject", 4},
    {Code::aborted, "aborted", 4},
    {Code::invalid, "invalid", 4},
    {Code::not_mediated, "not_mediated", 4},
    {Code::no_agent, "no_agent", 4},
    {Code::agent, "agent", 4},
    {Code::qmp, "qmp", 4},
    {Code::guest_died, "guest_died", 4},
    {Code::streams_open, "streams_open", 4},
    {Code::snapshot_corrupt, "snapshot_corrupt", 4},
    {Code::incompatible, "incompatible", 4},
    {Code::server_dead, "server_dead", 4},
    {Code::system, "system", 5},
    {Code::timeout, "timeout", 6},
    {Code::boot_timeout, "boot_timeout", 6},
    {Code::unavailable, "unavailable", 7},
    {Code::bug, "bug", 70},
};

// Second names of one number, of which glibc knows only the other.
constexpr std::pair<std::string_view, int> k_aliases[] = {{"ENOTSUP", ENOTSUP},
                                                          {"EOPNOTSUPP", EOPNOTSUPP},
                                                          {"EWOULDBLOCK", EWOULDBLOCK},
                                                          {"EDEADLOCK", EDEADLOCK}};

const CodeRow& row_of(Code code) {
  for (const CodeRow& row : k_codes)
    if (row.code == code) return row;
  return k_codes[std::size(k_codes) - 1];
}

}  // namespace

std::string_view code_name(Code code) {
  return row_of(code).name;
}

Code code_from_name(std::string_view name) {
  for (const CodeRow& row : k_codes)
    if (row.name == name) return row.code;
  return Code::bug;
}

int exit_class(Code code) {
  return row_of(code).exit;
}

std::string errno_name(int err) {
  if (err == ENOTSUP) return "ENOTSUP";  // NBD's name for it; glibc says EOPNOTSUPP
  const char* name = strerrorname_np(err);
  return name ? name : fmt::format("E{}", err);
}

int errno_from_name(std::string_view name) {
  for (const auto& [alias, number] : k_aliases)
    if (name == alias) return number;
  constexpr int k_max_errno = 4095;  // MAX_ERRNO, include/linux/err.h
  for (int err = 1; err <= k_max_errno; ++err) {
    const char* known = strerrorname_np(err);
    if (known && name == known) return err;
  }
  return 0;
}

Error system_error(std::string_view what, int err) {
  return Error(Code::system, fmt::format("{}: {}", what, strerrordesc_np(err)), err);
}

Error Error::with(std::string_view key, json value) const {
  Error copy = *this;
  json keys = extra ? *extra : json::object();
  keys[std::string(key)] = std::move(value);
  copy.extra = std::make_shared<const json>(std::move(keys));
  return copy;
}

json error_to_json(const Error& error) {
  json object = {{"code", code_name(error.code)}, {"message", error.message}};
  if (error.sys_errno != 0) object["errno"] = errno_name(error.sys_errno);
  if (error.extra) object.update(*error.extra);
  return object;
}

Error error_from_json(const json& object) {
  Error error;
  json extra = json::object();
  for (const auto& [key, value] : object.items()) {
    if (key == "code" && value.is_string())
      error.code = code_from_name(value.get<std::string>());
    else if (key == "message" && value.is_string())
      error.message = value.get<std::string>();
    else if (key == "errno" && value.is_string())
      error.sys_errno = errno_from_name(value.get<std::string>());
    else
      extra[key] = value;
  }
  if (!extra.empty()) error.extra = std::make_shared<const json>(std::move(extra));
  return error;
}

}  // namespace pv
