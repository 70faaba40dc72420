// SPDX-License-Identifier: MIT
#include "vm/access/talk.hpp"

#include <poll.h>
#include <sys/socket.h>

#define XXH_INLINE_ALL
#include <algorithm>
#include <cerrno>
#include <xxhash.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_answer = 4096;
constexpr double k_mib_bytes = 1 << 20;

}  // namespace

GuestHash::GuestHash()
    : state_(XXH64_createState(),
             [](void* state) { XXH64_freeState(static_cast<XXH64_state_t*>(state)); }) {
  XXH64_reset(static_cast<XXH64_state_t*>(state_.get()), 0);
}

void GuestHash::add(std::string_view bytes) {
  XXH64_update(static_cast<XXH64_state_t*>(state_.get()), bytes.data(), bytes.size());
}

std::string GuestHash::text() const {
  return fmt::format("{:016x}", XXH64_digest(static_cast<const XXH64_state_t*>(state_.get())));
}

ScriptTalk::ScriptTalk(GuestStream& stream, size_t port, const Transfer& transfer)
    : stream_(stream),
      port_(port),
      transfer_(transfer),
      deadline_(Deadline::in_ns(transfer.timeout_ns)),
      lines_(k_max_answer) {}

int ScriptTalk::fd() const {
  return stream_.port(port_).fd.get();
}

Result<> ScriptTalk::tell(std::string_view line) {
  // A few words; the guest reads them byte by byte, but QEMU takes a page at once.
  if (auto sent = write_all(fd(), line); !sent) return fail(ended());
  return {};
}

Result<> ScriptTalk::receive() {
  char bytes[k_max_answer];
  const ssize_t n = recv(fd(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return fail(ended());
  if (n > 0 && !lines_.feed({bytes, static_cast<size_t>(n)}))
    return fail(Code::agent, "the script in the guest gave an endless answer");
  return {};
}

Result<std::optional<std::string>> ScriptTalk::next() {
  const auto line = lines_.next();
  if (!line) return std::nullopt;
  if (line->rfind("no ", 0) == 0) return fail(refused(line->substr(3)));
  if (*line == "ok") return std::string();
  if (line->rfind("ok ", 0) == 0) return line->substr(3);
  return fail(Code::agent, fmt::format("the script in the guest said '{}'", printable(*line)));
}

Result<std::string> ScriptTalk::answer() {
  while (true) {
    TRY_ASSIGN(const auto words, next());
    if (words) return *words;
    pollfd ready[] = {{fd(), POLLIN, 0}, {control(), POLLIN, 0}};
    const int n = poll(ready, 2, deadline_.left_ms());
    if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
    if (n == 0) return fail(late());
    if (ready[0].revents != 0)
      TRY(receive());
    else if (ready[1].revents != 0)
      return fail(ended());
  }
}

Error ScriptTalk::ended() {
  const auto status = stream_.status();
  if (!status) return status.error();
  // Its last words may have come with its end.
  static_cast<void>(receive_last());
  if (const auto words = next(); !words) return words.error();
  return Error(Code::agent, fmt::format("the transfer of '{}' has ended early in the guest (exit "
                                        "status {}, signal {})",
                                        printable(transfer_.guest_path),
                                        get_u64(*status, "exitcode"), get_u64(*status, "signal")));
}

bool ScriptTalk::receive_last() {
  char bytes[k_max_answer];
  const ssize_t n = recv(fd(), bytes, sizeof bytes, MSG_DONTWAIT);
  return n > 0 && lines_.feed({bytes, static_cast<size_t>(n)});
}

Error ScriptTalk::refused(std::string_view reason) const {
  return Error(Code::io, fmt::format("'{}' in the guest: {}", printable(transfer_.guest_path),
                                     printable(reason)));
}

Error ScriptTalk::late() const {
  if (!stream_.agent_is_ready())
    return Error(Code::no_agent, "the guest agent does not answer (is it running?)");
  return Error(Code::timeout, fmt::format("the transfer of '{}' has not ended in time",
                                          printable(transfer_.guest_path)));
}

json transfer_document(const Transfer& transfer, const char* direction, uint64_t bytes,
                       const std::string& checksum, uint64_t started_ns) {
  const uint64_t ns = std::max<uint64_t>(system_clock().now_ns() - started_ns, 1);
  json document = {{"direction", direction},
                   {"guest_path", transfer.guest_path},
                   {"host_path", transfer.host_path},
                   {"bytes", bytes}};
  if (!checksum.empty()) document["checksum"] = checksum;
  document["duration_ms"] = static_cast<double>(ns / 1000) / 1000;
  const double rate = static_cast<double>(bytes) / k_mib_bytes * 1e9 / static_cast<double>(ns);
  document["mib_per_s"] = static_cast<double>(static_cast<uint64_t>(rate * 10)) / 10;
  return document;
}

}  // namespace pv::vm
