// SPDX-License-Identifier: MIT
#include "serve/vm_stop.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>

#include "base/json.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_let_go_ns = 200 * k_ns_per_ms;  // QEMU has stopped its processors by then
constexpr uint64_t k_ask_ms = 500;
constexpr uint64_t k_stop_ms = 10'000;
constexpr size_t k_max_answer = 1 << 20;

}  // namespace

VmStop::~VmStop() {
  loop_.cancel(look_timer_);
  loop_.cancel(let_go_timer_);
  if (supervisor_) loop_.unwatch(supervisor_.get());
}

// Not from within the request that is the reason.
void VmStop::look_soon() {
  if (look_timer_ != 0) return;
  look_timer_ = loop_.after(0, [this] {
    look_timer_ = 0;
    look();
  });
}

void VmStop::look() {
  const auto said = disk_.control({{"op", "verify.stop_wanted"}});
  if (!said || !get_bool(*said, "wanted")) return;
  if (supervisor_) return;  // it is being stopped
  auto asked = ask();
  if (!asked) return over(asked.error().message);
  supervisor_ = std::move(*asked);
  answer_.clear();
  if (auto watched = loop_.watch(supervisor_.get(), EPOLLIN, [this](uint32_t) { heard(); });
      !watched) {
    supervisor_.reset();
    return over(watched.error().message);
  }
  let_go_timer_ = loop_.after(k_let_go_ns, [this] {
    let_go_timer_ = 0;
    static_cast<void>(disk_.control({{"op", "verify.stopped"}}));
  });
}

Result<Fd> VmStop::ask() const {
  if (object_.owner.empty()) return fail(Code::wrong_state, "the disk is in no VM");
  TRY_ASSIGN(const RunDir run, RunDir::open(object_.scope));
  const auto vm = run.find("vm", "", object_.owner);
  if (!vm) return fail(Code::no_such_vm, "no VM '" + object_.owner + "'");
  const Deadline deadline = Deadline::in_ms(k_ask_ms);
  TRY_ASSIGN(LineClient client, LineClient::connect(vm->path("sup.sock"), deadline));
  TRY(client.send_line({{"op", "pause"}, {"timeout_ms", k_stop_ms}}, deadline));
  return client.release();
}

void VmStop::heard() {
  char buffer[4096];
  const ssize_t n = recv(supervisor_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) answer_.append(buffer, static_cast<size_t>(n));
  const bool whole = answer_.find('\n') != std::string::npos;
  if (n > 0 && !whole && answer_.size() < k_max_answer) return;
  loop_.unwatch(supervisor_.get());
  supervisor_.reset();
  const auto said = parse_json(answer_);
  const json* error = said ? find(*said, "error") : nullptr;
  if (!whole || !said) return over("its supervisor has gone");
  over(error != nullptr ? get_string(*error, "message") : "");
}

// It stands still, or why not; either way nobody waits for it any longer.
void VmStop::over(const std::string& error) {
  json told = {{"op", "verify.stopped"}, {"told", true}, {"vm", object_.owner}};
  if (!error.empty()) told["error"] = error;
  static_cast<void>(disk_.control(told));
}

}  // namespace pv::serve
