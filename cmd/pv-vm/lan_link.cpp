// SPDX-License-Identifier: MIT
#include "lan_link.hpp"

#include <charconv>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_max_delay_ns = 60 * k_ns_per_s;

Result<uint64_t> parse_delay(const char* flag, const std::string& text) {
  const auto ns = parse_duration(text);
  if (!ns) return fail(Code::usage, fmt::format("{}: {}", flag, ns.error().message));
  if (*ns > k_max_delay_ns)
    return fail(Code::usage, fmt::format("{}: {} is more than a minute", flag, printable(text)));
  return ns;
}

// "5%" or "0.05".
Result<double> parse_loss(const std::string& text) {
  const bool percent = !text.empty() && text.back() == '%';
  const char* end = text.data() + text.size() - (percent ? 1 : 0);
  double loss = 0;
  const auto [stop, error] = std::from_chars(text.data(), end, loss, std::chars_format::fixed);
  if (percent) loss /= 100;
  // Written so that NaN is refused.
  if (error == std::errc{} && stop == end && loss >= 0 && loss <= 1) return loss;
  return fail(Code::usage,
              fmt::format("--loss: '{}' is neither 0% to 100% nor 0 to 1", printable(text)));
}

}  // namespace

void add_link_flags(cli::Verb& verb, LinkFlags& flags) {
  verb.option("--latency", flags.latency, "DURATION",
              "Delay each frame on the link, in either direction");
  verb.option("--jitter", flags.jitter, "DURATION", "Delay by up to this much more, at random");
  verb.option("--loss", flags.loss, "PERCENT", "Lose this share of the frames, e.g. 5%");
  verb.option("--seed", flags.seed, "N", "Seed of loss and jitter (default: 0)");
}

Result<lan::LinkChange> link_change(const LinkFlags& flags, const std::string& state) {
  if (!state.empty() && state != "up" && state != "down")
    return fail(Code::usage, fmt::format("a link is 'up' or 'down', not '{}'", printable(state)));
  if (state.empty() && !flags.given())
    return fail(Code::usage,
                "nothing to change: give up, down, --latency, --jitter, --loss or "
                "--seed");
  lan::LinkChange change;
  if (!state.empty()) change.up = state == "up";
  if (!flags.latency.empty()) {
    TRY_ASSIGN(change.latency_ns, parse_delay("--latency", flags.latency));
  }
  if (!flags.jitter.empty()) {
    TRY_ASSIGN(change.jitter_ns, parse_delay("--jitter", flags.jitter));
  }
  if (!flags.loss.empty()) {
    TRY_ASSIGN(change.loss, parse_loss(flags.loss));
  }
  if (!flags.seed.empty()) {
    TRY_ASSIGN(change.seed, parse_seed("--seed", flags.seed));
  }
  return change;
}

}  // namespace pv::vmcmd
