// SPDX-License-Identifier: MIT
// put: the data goes into the guest in rounds of some MiB; while one is received, what the guest
// has of the round before is hashed there or read back, because receiving leaves the guest's CPU
// half idle.
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <map>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "vm/access/scripts.hpp"
#include "vm/access/talk.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_round_pieces = 1024;
constexpr uint64_t k_round_bytes = k_round_pieces * k_piece;
constexpr uint64_t k_put_slack_ns = 10 * k_ns_per_s;
constexpr unsigned k_default_mode = 0644;
constexpr unsigned k_put_mode_bits = 07777;

class Put {
 public:
  Put(GuestStream& stream, const Transfer& transfer, int source)
      : stream_(stream), talk_(stream, 1, transfer), transfer_(transfer), source_(source) {}

  Result<> run(unsigned mode) {
    pending_ = k_hello;
    TRY(talk_.tell(k_hello));
    // The script begins when it has read the first line of the data.
    while (!began_) TRY(step());
    TRY(talk_.tell(fmt::format("take {}\n", k_round_pieces)));
    while (!received_) TRY(step());
    TRY(talk_.tell("size\n"));
    while (!size_ || (reads_back() && back_ < sent_)) TRY(step());
    if (*size_ != std::to_string(sent_))
      return fail(Code::io, fmt::format("'{}': the guest has {} bytes of {}",
                                        printable(transfer_.guest_path), printable(*size_), sent_));
    if (!is_whole())
      return fail(Code::io, fmt::format("'{}': what the guest has is not what was sent",
                                        printable(transfer_.guest_path)));
    TRY(talk_.tell(fmt::format("keep {:o}\n", mode)));
    TRY_ASSIGN(const std::string kept, talk_.answer());
    return {};
  }

  uint64_t bytes() const { return sent_; }
  std::string checksum() const { return transfer_.check ? hash_.text() : std::string(); }

 private:
  bool reads_back() const { return transfer_.check && !can_hash_; }

  bool is_whole() {
    if (!transfer_.check) return true;
    if (!can_hash_) return back_ == sent_ && hash_back_.text() == hash_.text();
    if (sent_ % k_round_bytes != 0) end_round();
    return their_rounds_ == our_rounds_;
  }

  // Waits for something and does it.
  Result<> step() {
    const bool want_input = began_ && pending_.empty() && !source_ended_;
    std::array<pollfd, 5> ready = {
        pollfd{talk_.fd(), POLLIN, 0}, pollfd{talk_.control(), POLLIN, 0},
        pollfd{stream_.port(2).fd.get(), POLLIN, 0},
        pollfd{pending_.empty() ? -1 : stream_.port(0).fd.get(), POLLOUT, 0},
        pollfd{want_input ? source_ : -1, POLLIN, 0}};
    const int n = poll(ready.data(), ready.size(), talk_.deadline().left_ms());
    if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
    if (n <= 0) return n == 0 ? Result<>(fail(talk_.late())) : Result<>();
    if (ready[0].revents != 0) {
      TRY(talk_.receive());
      TRY(take_answers());
    }
    if (ready[2].revents != 0) read_back();
    if (ready[3].revents != 0) send();
    if (ready[4].revents != 0) TRY(read_source());
    if (ready[1].revents != 0) return fail(talk_.ended());
    return {};
  }

  Result<> take_answers() {
    while (true) {
      TRY_ASSIGN(const auto words, talk_.next());
      if (!words) return {};
      if (!began_) {
        began_ = true;
        can_hash_ = *words == "hash";
      } else if (words->rfind("hash ", 0) == 0) {
        const std::vector<std::string> parts = split(*words, ' ');
        if (parts.size() == 3) their_rounds_[parts[1]] = parts[2];
      } else if (!received_) {
        TRY(round_received());
      } else {
        size_ = *words;
      }
    }
  }

  Result<> round_received() {
    const uint64_t first = rounds_ * k_round_pieces;
    ++rounds_;
    // Fewer bytes than a whole round come only at the end.
    received_ = source_ended_ && sent_ < rounds_ * k_round_bytes;
    std::string lines;
    if (reads_back())
      lines = fmt::format("back {} {}\n", first, k_round_pieces);
    else if (transfer_.check && first * k_piece < sent_)
      lines = fmt::format("hash {} {}\n", first * k_piece, k_round_bytes);
    if (!received_) lines += fmt::format("take {}\n", k_round_pieces);
    return lines.empty() ? Result<>() : talk_.tell(lines);
  }

  void read_back() {
    const ssize_t n = recv(stream_.port(2).fd.get(), chunk_.data(), chunk_.size(), MSG_DONTWAIT);
    if (n <= 0) return;
    back_ += static_cast<uint64_t>(n);
    hash_back_.add({chunk_.data(), static_cast<size_t>(n)});
  }

  void send() {
    const ssize_t n = ::send(stream_.port(0).fd.get(), pending_.data() + pending_start_,
                             pending_.size() - pending_start_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) return;
    pending_start_ += static_cast<size_t>(n);
    if (pending_start_ < pending_.size()) return;
    pending_.clear();
    pending_start_ = 0;
  }

  Result<> read_source() {
    pending_.resize(k_transfer_chunk);
    const ssize_t n = read(source_, pending_.data(), pending_.size());
    const int error = errno;
    pending_.resize(n > 0 ? static_cast<size_t>(n) : 0);
    if (n < 0 && (error == EINTR || error == EAGAIN)) return {};
    if (n < 0) return fail_errno("cannot read " + transfer_.host_path, error);
    if (transfer_.check) add_to_hashes(pending_);
    sent_ += static_cast<uint64_t>(n);
    if (n > 0) return {};
    source_ended_ = true;
    shutdown(stream_.port(0).fd.get(), SHUT_WR);  // QEMU passes the end on when it has taken all
    return {};
  }

  // Before it is counted as sent.
  void add_to_hashes(std::string_view bytes) {
    hash_.add(bytes);
    if (!can_hash_) return;
    const uint64_t room = k_round_bytes - sent_ % k_round_bytes;
    round_hash_.add(bytes.substr(0, room));
    if (bytes.size() < room) return;
    end_round();
    round_hash_.add(bytes.substr(room));
  }

  void end_round() {
    our_rounds_[std::to_string(our_rounds_.size() * k_round_bytes)] = round_hash_.text();
    round_hash_ = GuestHash();
  }

  GuestStream& stream_;
  ScriptTalk talk_;
  const Transfer& transfer_;
  int source_;
  std::string pending_, chunk_ = std::string(k_transfer_chunk, '\0');
  size_t pending_start_ = 0;
  bool began_ = false, can_hash_ = false, source_ended_ = false, received_ = false;
  uint64_t sent_ = 0, back_ = 0, rounds_ = 0;
  std::optional<std::string> size_;
  RunningHash hash_, hash_back_;
  GuestHash round_hash_;
  std::map<std::string, std::string> our_rounds_, their_rounds_;  // hashes by offset
};

// Opens what is to be sent; its mode where it has one.
Result<Fd> open_source(const std::string& path, unsigned& mode) {
  mode = k_default_mode;
  if (path == "-") return Fd(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + printable(path), errno);
  struct stat info {};
  if (fstat(fd.get(), &info) < 0) return fail_errno("cannot examine " + printable(path), errno);
  if (S_ISDIR(info.st_mode))
    return fail(Code::invalid,
                fmt::format("'{}' is a directory: only files are transferred", printable(path)));
  if (S_ISREG(info.st_mode)) mode = info.st_mode & k_put_mode_bits;
  return fd;
}

}  // namespace

Result<json> put_file(const Object& vm, const Transfer& transfer) {
  const uint64_t started_ns = system_clock().now_ns();
  unsigned mode = 0;
  TRY_ASSIGN(const Fd source, open_source(transfer.host_path, mode));
  TRY_ASSIGN(GuestStream stream, GuestStream::open(vm, "put", 3));
  const auto number = [&](size_t i) { return std::to_string(stream.port(i).nr); };
  const std::string ending = fmt::format(".pv-{:016x}", fresh_seed());
  // Our own limit comes first: then the script can still tidy up.
  TRY(stream.start(k_put_script, {number(0), number(1), number(2), ending, transfer.guest_path}, {},
                   transfer.timeout_ns + k_put_slack_ns));
  Put put(stream, transfer, source.get());
  TRY(put.run(transfer.mode.value_or(mode)));
  return transfer_document(transfer, "put", put.bytes(), put.checksum(), started_ns);
}

}  // namespace pv::vm
