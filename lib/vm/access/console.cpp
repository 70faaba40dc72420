// SPDX-License-Identifier: MIT
#include "vm/access/console.hpp"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr const char* k_attach_lock = "con.lock";
constexpr uint64_t k_connect_ns = 5 * k_ns_per_s;
constexpr int k_look_again_ms = 20;
constexpr int k_silence_ms = 300;
constexpr char k_escape = '\x1d';  // Ctrl-]
constexpr size_t k_console_chunk = 1 << 16;

// Everything from `offset` on, in pieces: a console log can be large.
Result<> print_from(int fd, uint64_t& offset, const ConsolePrint& print) {
  std::string chunk(k_console_chunk, '\0');
  while (true) {
    const ssize_t n = pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read the console log", errno);
    if (n == 0) return {};
    TRY(print({chunk.data(), static_cast<size_t>(n)}));
    offset += static_cast<uint64_t>(n);
  }
}

// Nobody else while it is held; it goes with the process.
Result<Fd> take_console(const Object& vm) {
  Fd lock(open(vm.path(k_attach_lock).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return fail_errno("cannot open " + vm.path(k_attach_lock), errno);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) < 0)
    return fail(Code::in_use, fmt::format("the console of VM '{}' is attached by process {}",
                                          vm.name, tail_of_file(vm.path(k_attach_lock), 16)));
  if (ftruncate(lock.get(), 0) < 0) return fail_errno("cannot write the lock", errno);
  TRY(write_all(lock.get(), std::to_string(getpid())));
  return lock;
}

// A terminal that passes every key on; as it was before when this is destroyed.
class RawTerminal {
 public:
  explicit RawTerminal(int fd) : fd_(fd), on_(tcgetattr(fd, &before_) == 0) {
    if (!on_) return;
    termios raw = before_;
    cfmakeraw(&raw);
    tcsetattr(fd, TCSANOW, &raw);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() {
    if (on_) tcsetattr(fd_, TCSANOW, &before_);
  }
  bool is_terminal() const { return on_; }

 private:
  int fd_;
  termios before_{};
  bool on_;
};

// Signals that end us come by this descriptor instead, so that the terminal is put right first.
Fd ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGHUP, SIGINT, SIGQUIT}) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return Fd(signalfd(-1, &set, SFD_CLOEXEC));
}

struct Attached {
  int console, input, output, signals;
  bool terminal;
  bool input_ended = false;
};

// True when the person, or the end of the input, has had enough.
Result<bool> pass_input(Attached& at) {
  char bytes[4096];
  const ssize_t n = read(at.input, bytes, sizeof bytes);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return false;
  if (n <= 0) {
    at.input_ended = true;
    return false;
  }
  std::string_view text(bytes, static_cast<size_t>(n));
  const size_t escape = at.terminal ? text.find(k_escape) : std::string_view::npos;
  TRY(write_all(at.console, text.substr(0, escape)));
  return escape != std::string_view::npos;
}

// True at the end.
Result<bool> turn(Attached& at, const ConsolePrint& print) {
  pollfd ready[] = {{at.console, POLLIN, 0},
                    {at.input_ended ? -1 : at.input, POLLIN, 0},
                    {at.signals, POLLIN, 0},
                    {at.output, 0, 0}};
  const int n = poll(ready, 4, at.input_ended ? k_silence_ms : -1);
  if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
  if (n <= 0) return n == 0;
  if (ready[2].revents != 0 || ready[3].revents != 0) return true;
  if (ready[0].revents != 0) {
    char bytes[4096];
    const ssize_t got = recv(at.console, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return true;
    if (got > 0) TRY(print({bytes, static_cast<size_t>(got)}));
  }
  return ready[1].revents != 0 ? pass_input(at) : Result<bool>(false);
}

}  // namespace

Result<> print_console(const Object& vm, uint64_t tail_bytes, bool follow, int output,
                       const ConsolePrint& print) {
  const Fd log(open(vm.path(k_console_log).c_str(), O_RDONLY | O_CLOEXEC));
  if (!log) {
    if (errno == ENOENT) return {};  // not booted yet: nothing was printed
    return fail_errno("cannot open the console log", errno);
  }
  const auto size = static_cast<uint64_t>(lseek(log.get(), 0, SEEK_END));
  uint64_t offset = size > tail_bytes ? size - tail_bytes : 0;
  TRY(print_from(log.get(), offset, print));
  if (!follow) return {};
  // The supervisor hangs up when the VM has ended.
  const auto supervisor = connect_unix(vm.path(k_control_socket), Deadline::in_ns(k_connect_ns));
  while (supervisor) {
    pollfd ready[] = {{supervisor->get(), POLLIN, 0}, {output, 0, 0}};
    const int n = poll(ready, 2, k_look_again_ms);
    TRY(print_from(log.get(), offset, print));
    if (n > 0) break;
  }
  return {};
}

Result<> attach_console(const Object& vm, int input, int output, const ConsolePrint& print) {
  TRY_ASSIGN(const Fd lock, take_console(vm));
  TRY_ASSIGN(const Fd console,
             connect_unix(vm.path(k_console_socket), Deadline::in_ns(k_connect_ns)));
  const Fd signals = ending_signals();
  const RawTerminal terminal(input);
  Attached at{console.get(), input, output, signals.get(), terminal.is_terminal()};
  while (true) {
    TRY_ASSIGN(const bool done, turn(at, print));
    if (done) return {};
  }
}

}  // namespace pv::vm
