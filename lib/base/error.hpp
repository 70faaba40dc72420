// SPDX-License-Identifier: MIT
// What can go wrong, as scripts see it: a stable code, a human message, and the exit class of the
// process. Codes never change meaning within format version 1 (pv-json(7)); messages may.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/json_fwd.hpp"

namespace pv {

enum class Code {
  usage,
  bad_mode,
  bad_rule,
  bad_document,
  wrong_state,
  no_such_vm,
  no_such_disk,
  no_such_lan,
  no_such_rule,
  no_such_snapshot,
  duplicate_name,
  detached,
  no_image,
  in_use,
  out_of_range,
  io,
  medium,
  read_only,
  reservation_conflict,
  unsupported,
  unsupported_eject,
  aborted,
  invalid,
  not_mediated,
  no_agent,
  agent,
  qmp,
  guest_died,
  streams_open,
  snapshot_corrupt,
  incompatible,
  server_dead,
  system,
  timeout,
  boot_timeout,
  unavailable,
  bug,
};

// An error on its way to the user. Cheap to move; `extra` holds further keys of the error document
// (`valid`, `state`, `allowed`, `rule`, `console`, `cause`, …) and is null in most errors.
struct Error {
  Code code = Code::bug;
  std::string message;
  int sys_errno = 0;
  std::shared_ptr<const json> extra;

  Error() = default;
  Error(Code c, std::string text, int err = 0)
      : code(c), message(std::move(text)), sys_errno(err) {}

  // The same error with one more key in its document.
  [[nodiscard]] Error with(std::string_view key, json value) const;
};

std::string_view code_name(Code code);

// Inverse of code_name(); Code::bug for a name that this version does not know.
Code code_from_name(std::string_view name);

// Exit class of a code, 1..70 (table in pv-json(7)).
int exit_class(Code code);

// "EIO" for 5, "E999" for a number without a name.
std::string errno_name(int err);

// 5 for "EIO"; 0 for a name that this system does not have.
int errno_from_name(std::string_view name);

// Code::system with "what: strerror(err)".
Error system_error(std::string_view what, int err);

// The `error` object of a document, and back (for errors that cross a control socket).
json error_to_json(const Error& error);
Error error_from_json(const json& object);

}  // namespace pv
