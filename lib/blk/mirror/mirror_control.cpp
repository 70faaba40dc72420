// SPDX-License-Identifier: MIT
// The mirror's keys, and its side of the conversation with pv-verify (watch.hpp).
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"
#include "blk/mirror/mirror.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_mirror_control_max_scrub = uint64_t{1} << 40;

constexpr ParamSpec k_mirror_params[] = {
    {"with", "PATH", "the reference: an image in any format, or a URI", ParamSpec::path},
    {"key-file", "PATH", "the passphrase of an encrypted reference", ParamSpec::path},
    {"on-mismatch", "POLICY", "what is answered: report (default), eio, hold or stop_vm"},
    {"hold", "DURATION", "how long a request is held at most (default: 1m)"},
    {"identical", "MODE", "check (default) the legs at the start, or assume it"},
    {"scrub", "SIZE", "compare in the background, so many bytes a second (default: 0, not)"},
    {"journal", "SIZE", "how large the journal may get before the oldest go (default 64M)"},
};

std::string param(const LayerSpec& spec, const char* key, const char* otherwise) {
  const auto given = spec.params.find(key);
  return given == spec.params.end() ? otherwise : given->second;
}

bool same_file(Disk& test, Disk& reference) {
  const auto one = test.control({{"op", "base.identity"}});
  const auto two = reference.control({{"op", "base.identity"}});
  return one && two && get_u64(*one, "inode") != 0 &&
         get_u64(*one, "inode") == get_u64(*two, "inode") &&
         get_u64(*one, "device") == get_u64(*two, "device");
}

// A disk of a server, however its URI is spelt.
bool same_export(Disk& test, Disk& reference) {
  const auto one = test.control({{"op", "base.export"}});
  const auto two = reference.control({{"op", "base.export"}});
  return one && two && find(*one, "server") != nullptr && *one == *two;
}

// What both must have in common; everything in which they do not is named.
Result<> check_legs(Disk& test, Disk& reference, const std::string& path) {
  const Geometry &a = test.geometry(), &b = reference.geometry();
  if (a.size != b.size)
    return fail(Code::invalid,
                fmt::format("layer 'mirror': legs of different size: the disk under test has {} "
                            "bytes, the reference {} {}",
                            a.size, path, b.size));
  if (a.sector_size != b.sector_size)
    return fail(Code::invalid, fmt::format("layer 'mirror': sectors of {} and, of the reference "
                                           "{}, of {} bytes",
                                           a.sector_size, path, b.sector_size));
  if (b.read_only && !a.read_only)
    return fail(Code::read_only,
                fmt::format("layer 'mirror': the reference {} can only be read", path));
  if (same_file(test, reference))
    return fail(Code::usage, fmt::format("layer 'mirror': both legs are the same file, {}", path));
  if (same_export(test, reference))
    return fail(Code::usage, fmt::format("layer 'mirror': both legs are the same disk, {}", path));
  return {};
}

}  // namespace

json Mirror::state() const {
  json state = watch_.shown();
  state["left_out_bytes"] = undefined_.bytes();
  state["reference_changed_outside"] = changed_outside_;
  return state;
}

Result<json> Mirror::control(const json& request) {
  if (get_string(request, "op") == "verify.status") {
    look_outside();
    return json{{"verify", state()}};
  }
  if (auto answer = watch_.control(request)) return std::move(*answer);
  return lower().control(request);
}

void Mirror::inspect(json& out) const {
  json reference = json::object();
  reference_->inspect(reference);
  out["mirror"] = state();
  out["mirror"].update({{"requests", requests_},
                        {"compared_bytes", compared_bytes_},
                        {"waited_for_another", lock_.waited()},
                        {"undefined_coarse", undefined_.coarse()},
                        {"scrub", scrub_.shown()},
                        {"reference", reference}});
  lower().inspect(out);
}

Result<> Mirror::save_state(StateOut& out) {
  if (out.in_base()) return lower().save_state(out);
  return fail(Code::unsupported, "a mirrored disk cannot be part of a snapshot");
}

std::span<const ParamSpec> mirror_params() {
  return k_mirror_params;
}

Result<std::unique_ptr<Disk>> make_mirror(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env) {
  Mirror::Options options;
  TRY_ASSIGN(options.watch, Watch::parse(spec));
  const std::string path = param(spec, "with", ""), check = param(spec, "identical", "check");
  if (path.empty() || env.opener == nullptr)
    return fail(Code::usage, "layer 'mirror' needs a reference, e.g. mirror:with=b.img");
  if (check != "check" && check != "assume")
    return fail(Code::usage,
                fmt::format("layer 'mirror': identical={} is neither check nor assume", check));
  const auto scrub = parse_size(param(spec, "scrub", "0"));
  if (!scrub || *scrub > k_mirror_control_max_scrub)
    return fail(Code::usage,
                fmt::format("layer 'mirror': scrub={} is not a size up to {}",
                            param(spec, "scrub", "0"), format_size(k_mirror_control_max_scrub)));
  options.scrub_bytes_per_s = *scrub;
  TRY_ASSIGN(std::unique_ptr<Disk> reference,
             env.opener->image(path, lower->geometry().read_only, param(spec, "key-file", "")));
  TRY(check_legs(*lower, *reference, path));
  if (check == "check") TRY(check_identical(*lower, *reference, env.loop));
  return std::make_unique<Mirror>(std::move(lower), std::move(reference), env, options);
}

}  // namespace pv::blk
