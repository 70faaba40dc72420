// SPDX-License-Identifier: MIT
#include "vm/supervisor/guest_setup.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "vm/supervisor/reseed.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_piece = 4 << 20;  // qemu-ga holds a message and its base64 in memory

// $1: the file, $2: its folder, $3: its mode, $4: 0 for the first piece. An existing file keeps
// neither owner nor mode.
constexpr const char* k_script =
    "if [ $4 = 0 ]; then mkdir -p \"$2\" && rm -f \"$1\" && : >\"$1\" && chown 0:0 \"$1\" && "
    "chmod $3 \"$1\"; fi && cat >>\"$1\"";

}  // namespace

void GuestSetup::start(GuestWork work, uint64_t timeout_ns, std::function<void(Result<>)> done) {
  work_ = std::move(work);
  timeout_ns_ = timeout_ns;
  done_ = std::move(done);
  if (work_.initial_time_ns) return set_clock();
  next_piece();
}

// What the clock should show now.
uint64_t GuestSetup::clock_now() const {
  return *work_.initial_time_ns + (system_clock().now_ns() - work_.since_ns);
}

// The guest has whole seconds from its RTC, and has lost a part of one on the way.
void GuestSetup::set_clock() {
  agent_.call("guest-set-time", {{"time", clock_now()}}, timeout_ns_, [this](Result<json> result) {
    if (result) return next_piece();
    set_clock_by_date(result.error());
  });
}

// guest-set-time wants to write the RTC too, and refuses where there is no hwclock(8).
void GuestSetup::set_clock_by_date(const Error& first) {
  const uint64_t now_ns = clock_now();
  GuestCommand command;
  command.argv = {"date", "-s", fmt::format("@{}.{:09}", now_ns / k_ns_per_s, now_ns % k_ns_per_s)};
  command.timeout_ns = timeout_ns_;
  runs_.start(std::move(command), [this, first](Result<json> status) {
    if (status && run_document({}, *status)["exit_status"] == 0) return next_piece();
    finish(fail(Code::agent, "cannot set the guest's clock: " + first.message));
  });
}

void GuestSetup::next_piece() {
  if (file_ == work_.files.size()) return work_.reseed ? reseed() : finish({});
  const guest::UserFile& file = work_.files[file_];
  const std::string path = "/" + file.dest;
  GuestCommand command;
  command.argv = {"/bin/sh",
                  "-c",
                  k_script,
                  "sh",
                  path,
                  path.substr(0, std::max<size_t>(path.rfind('/'), 1)),
                  fmt::format("{:04o}", file.mode),
                  std::to_string(offset_)};
  command.input = file.data.substr(offset_, k_piece);
  command.has_input = true;
  command.timeout_ns = timeout_ns_;
  offset_ += command.input.size();
  runs_.start(std::move(command), [this](Result<json> status) { wrote(status); });
}

void GuestSetup::reseed() {
  std::string entropy;
  for (int i = 0; i < 8; ++i) {
    const uint64_t word = fresh_seed();
    entropy.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  GuestCommand command = reseed_command(work_.host_name, std::move(entropy));
  command.timeout_ns = timeout_ns_;
  runs_.start(std::move(command), [this](const Result<json>& status) {
    if (!status) return finish(fail(status.error()));
    const json run = run_document({}, *status);
    if (run["exit_status"] == 0) return finish({});
    finish(fail(Code::agent, "the guest cannot be given an identity of its own: " +
                                 last_words(run, "it gives no reason")));
  });
}

void GuestSetup::wrote(const Result<json>& status) {
  guest::UserFile& file = work_.files[file_];
  const auto wrong = [&](const std::string& why) {
    return finish(
        fail(Code::agent, fmt::format("cannot write /{} in the guest: {}", file.dest, why)));
  };
  if (!status) return wrong(status.error().message);
  const json run = run_document({}, *status);
  if (run["exit_status"] != 0)
    return wrong(last_words(run, fmt::format("status {}", run["exit_status"].dump())));
  if (offset_ >= file.data.size()) {
    file.data = std::string();
    ++file_;
    offset_ = 0;
  }
  next_piece();
}

void GuestSetup::finish(const Result<>& result) {
  work_ = GuestWork{};
  auto done = std::move(done_);
  done(result);
}

}  // namespace pv::vm
