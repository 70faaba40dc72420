// SPDX-License-Identifier: MIT
#include "serve/keeper.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/socket.hpp"
#include "front/vhost/greeter.hpp"

namespace pv::serve {
namespace {

// A server that cannot live is not started for ever: one that dies before it serves, however long
// a loaded machine takes for that, or at once.
constexpr uint64_t k_short_life_ns = 50 * k_ns_per_ms;
constexpr int k_max_short_lives = 10;
constexpr int k_bug = 70;  // the exit status of a failed assertion

bool has_died(int status) {
  return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == k_bug);
}

int exit_status(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  int from = STDERR_FILENO + 1;
  for (const int fd : kept) {
    if (fd < from) continue;
    if (fd > from) close_range(static_cast<unsigned>(from), static_cast<unsigned>(fd - 1), 0);
    from = fd + 1;
  }
  close_range(static_cast<unsigned>(from), ~0U, 0);
}

class Keeper {
 public:
  Keeper(const Object& disk, Fd& ready, const std::function<int(const Life&)>& serve,
         std::unique_ptr<Loop> loop)
      : disk_(disk), ready_(ready), serve_(serve), loop_(std::move(loop)) {}

  Result<int> run(const std::string& vhost_socket) {
    TRY(loop_->on_signals({SIGTERM, SIGINT}, [this](int number) {
      if (server_ > 0) kill(server_, number);
    }));
    if (!vhost_socket.empty()) TRY(greet(vhost_socket));
    TRY(start());
    TRY(loop_->run());
    return status_;
  }

 private:
  Result<> greet(const std::string& socket) {
    void* page =
        mmap(nullptr, sizeof *offer_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return fail_errno("cannot share memory with the server", errno);
    offer_ = static_cast<uint64_t*>(page);
    TRY_ASSIGN(Fd listener, listen_unix(socket));
    greeter_ = std::make_unique<vhost::Greeter>(
        *loop_, std::move(listener), [this] { return __atomic_load_n(offer_, __ATOMIC_ACQUIRE); },
        [this](const vhost::Handover& handover) {
          // One that has died hangs up on the client; the next one is connected to anew.
          static_cast<void>(vhost::send_handover(door_.get(), handover));
        });
    return greeter_->start();
  }

  Result<> start() {
    int doors[2] = {-1, -1};
    constexpr int k_type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
    if (greeter_ && socketpair(AF_UNIX, k_type, 0, doors) < 0)
      return fail_errno("socketpair", errno);
    door_.reset(doors[0]);
    Fd theirs(doors[1]);
    began_ns_ = system_clock().now_ns();
    const Life life{lives_++ != 0, theirs.get(), offer_};
    server_ = fork();
    if (server_ < 0) return fail_errno("the disk's server cannot be started", errno);
    if (server_ == 0) {
      // What is the keeper's is closed and forgotten, not taken apart: it shares its epoll with us.
      close_all_but({ready_.get(), theirs.release()});
      _exit(serve_(life));
    }
    ready_.reset();
    pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, server_, 0)));
    if (!pidfd_) return fail_errno("pidfd_open", errno);
    return loop_->watch(pidfd_.get(), EPOLLIN, [this](uint32_t) { ended(); });
  }

  void ended() {
    int status = 0;
    while (waitpid(server_, &status, 0) < 0 && errno == EINTR) {
    }
    loop_->unwatch(pidfd_.get());
    const pid_t died = std::exchange(server_, 0);  // a signal may come in this very round
    status_ = exit_status(status);
    const bool was_short =
        !has_served(died) || system_clock().now_ns() - began_ns_ < k_short_life_ns;
    short_lives_ = was_short ? short_lives_ + 1 : 0;
    if (!has_died(status) || !is_wanted()) return loop_->stop();
    if (short_lives_ == k_max_short_lives) {
      fmt::print(stderr, "the disk's server dies as soon as it is started: given up\n");
      return loop_->stop();
    }
    fmt::print(stderr, "the disk's server has died (status {}); it is started again\n", status_);
    if (const auto started = start(); !started) {
      fmt::print(stderr, "{}\n", started.error().message);
      loop_->stop();
    }
  }

  // It writes its pid there when it is up.
  bool has_served(pid_t server) const {
    const auto state = disk_.load();
    return state && process_from_json(*state).pid == server;
  }

  bool is_wanted() const {
    return access(disk_.dir.c_str(), F_OK) == 0 &&
           access(disk_.path(k_closing_file).c_str(), F_OK) != 0;
  }

  const Object& disk_;
  Fd& ready_;
  const std::function<int(const Life&)>& serve_;
  std::unique_ptr<Loop> loop_;
  uint64_t* offer_ = nullptr;
  Fd door_;  // to the server that lives
  std::unique_ptr<vhost::Greeter> greeter_;
  pid_t server_ = 0;
  Fd pidfd_;
  int status_ = 0, lives_ = 0, short_lives_ = 0;
  uint64_t began_ns_ = 0;
};

}  // namespace

int keep_serving(const Object& disk, const std::string& vhost_socket, Fd& ready,
                 const std::function<int(const Life&)>& serve) {
  prctl(PR_SET_NAME, "pv-disk-keeper");
  auto loop = Loop::create();
  Result<int> status = loop ? Keeper(disk, ready, serve, std::move(*loop)).run(vhost_socket)
                            : tl::unexpected<Error>(loop.error());
  if (status) return *status;
  fmt::print(stderr, "{}\n", status.error().message);
  return exit_class(status.error().code);
}

}  // namespace pv::serve
