// SPDX-License-Identifier: MIT
// Kind `error`: the request fails with an errno and nothing is transferred.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "blk/fault/kinds.hpp"

namespace pv::blk {
namespace {

class ErrorAction final : public Action {
 public:
  explicit ErrorAction(int error) : error_(error) {}
  Stage stage() const override { return Stage::outcome; }
  void apply(Passage& passage) const override { passage.fail(error_); }
  json describe() const override { return {{"kind", "error"}, {"errno", errno_name(error_)}}; }

 private:
  int error_;
};

}  // namespace

Result<std::unique_ptr<Action>> make_error_action(const json& object) {
  TRY(check_keys(object, {"kind", "errno"}, "do"));
  const json* value = find(object, "errno");
  if (value && !value->is_string())
    return fail(Code::bad_rule, "do.errno is not a name such as \"EIO\"");
  const std::string name = value ? value->get<std::string>() : "EIO";
  const int error = errno_from_name(name);
  if (error == 0) {
    const std::vector<std::string> usual = {"EIO",       "ENOSPC",    "EPERM",     "EROFS",
                                            "EINVAL",    "ENOMEM",    "EOVERFLOW", "ENOTSUP",
                                            "ESHUTDOWN", "ETIMEDOUT", "ENODEV",    "EBUSY"};
    return fail(Error(Code::bad_rule,
                      fmt::format("unknown errno '{}' (usual ones: {})", name, join(usual, " ")))
                    .with("valid", usual));
  }
  return std::make_unique<ErrorAction>(error);
}

}  // namespace pv::blk
