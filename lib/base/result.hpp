// SPDX-License-Identifier: MIT
// Result<T> is what every function that can fail returns. TRY passes an error up; TRY_ASSIGN also
// names the value. No exception crosses a lib/ border.
#pragma once

#include <utility>

#include <tl/expected.hpp>

#include "base/error.hpp"

namespace pv {

template <class T = void>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Code code, std::string message, int err = 0) {
  return tl::unexpected<Error>(Error(code, std::move(message), err));
}
inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}
inline tl::unexpected<Error> fail_errno(std::string_view what, int err) {
  return tl::unexpected<Error>(system_error(what, err));
}

}  // namespace pv

#define PV_CONCAT2(a, b) a##b
#define PV_CONCAT(a, b) PV_CONCAT2(a, b)

#define TRY(expression)                                                \
  do {                                                                 \
    if (auto try_result = (expression); !try_result)                   \
      return tl::unexpected<pv::Error>(std::move(try_result).error()); \
  } while (false)

#define TRY_ASSIGN_IMPL(temporary, declaration, expression)                       \
  auto temporary = (expression);                                                  \
  if (!temporary) return tl::unexpected<pv::Error>(std::move(temporary).error()); \
  declaration = std::move(*temporary)

#define TRY_ASSIGN(declaration, expression) \
  TRY_ASSIGN_IMPL(PV_CONCAT(try_value_, __LINE__), declaration, expression)
