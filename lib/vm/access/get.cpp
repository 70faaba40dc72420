// SPDX-License-Identifier: MIT
// get: the guest sends the file, and hashes it or sends it once more to be compared.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "vm/access/scripts.hpp"
#include "vm/access/talk.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_get_slack_ns = 10 * k_ns_per_s;
constexpr int k_rest_ms = 10'000;
constexpr uint64_t k_reader_pause_ns = 10 * k_ns_per_ms;
// Who may be whom is a matter of the guest's users, not of the host's.
constexpr unsigned k_get_mode_bits = 0777;

// A special file of the host is written to as a stream, and is what it was afterwards.
class HostStream {
 public:
  static Result<HostStream> open(const std::string& path, const Deadline& deadline) {
    while (true) {
      Fd fd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
      if (fd) return HostStream(path, std::move(fd), deadline);
      struct stat info {};
      const int error = errno;
      const bool no_reader =
          error == ENXIO && stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
      if (!no_reader) return fail_errno("cannot open " + printable(path), error);
      if (deadline.passed())
        return fail(Code::timeout, fmt::format("nobody has opened '{}' to read", printable(path)));
      sleep_ns(k_reader_pause_ns);
    }
  }

  Result<> write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
      if (n >= 0 || errno == EINTR) continue;
      if (errno != EAGAIN) return fail_errno("cannot write to " + printable(path_), errno);
      pollfd room{fd_.get(), POLLOUT, 0};
      if (poll(&room, 1, deadline_.left_ms()) == 0)
        return fail(Code::timeout, fmt::format("'{}' is not read in time", printable(path_)));
    }
    return {};
  }

 private:
  HostStream(std::string path, Fd fd, const Deadline& deadline)
      : path_(std::move(path)), fd_(std::move(fd)), deadline_(deadline) {}
  std::string path_;
  Fd fd_;
  Deadline deadline_;
};

// A regular file of the host: without a name until it is whole, so that a kill leaves nothing.
class HostFile {
 public:
  static Result<HostFile> create(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    HostFile file(path);
    file.fd_.reset(open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
    if (!file.fd_ && (errno == EOPNOTSUPP || errno == EISDIR)) {
      file.named_ = true;
      file.fd_.reset(open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    }
    if (!file.fd_) return fail_errno("cannot create " + printable(path), errno);
    return file;
  }
  HostFile(HostFile&& other) = default;
  ~HostFile() {
    if (named_ && fd_) unlink(temporary_.c_str());
  }

  int fd() const { return fd_.get(); }
  Result<> keep(unsigned mode) {
    if (fchmod(fd_.get(), mode) < 0) return fail_errno("cannot set the mode of " + path_, errno);
    if (!named_ && linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd_.get()).c_str(), AT_FDCWD,
                          temporary_.c_str(), AT_SYMLINK_FOLLOW) < 0)
      return fail_errno("cannot create " + printable(path_), errno);
    named_ = true;
    if (rename(temporary_.c_str(), path_.c_str()) < 0)
      return fail_errno("cannot create " + printable(path_), errno);
    fd_.reset();
    return {};
  }

 private:
  explicit HostFile(std::string path)
      : path_(std::move(path)), temporary_(fmt::format("{}.pv-{:016x}", path_, fresh_seed())) {}
  std::string path_, temporary_;
  Fd fd_;
  bool named_ = false;
};

// Where the bytes go: into a file that is made or replaced, into one that is only written to, or
// to the caller.
struct Target {
  std::optional<HostFile> file;
  std::optional<HostStream> stream;

  static Result<Target> open(const std::string& path, const Deadline& deadline) {
    Target target;
    if (path == "-") return target;
    const auto refused = [&](const char* why) {
      return fail(Code::invalid, fmt::format("'{}' is {}", printable(path), why));
    };
    struct stat info {
    }, link{};
    const bool exists = stat(path.c_str(), &info) == 0;
    const bool is_link = lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode);
    if (is_link && !exists) return refused("a link that leads to no file");
    if (exists && S_ISDIR(info.st_mode)) return refused("a directory: name the file in it");
    if (exists && S_ISSOCK(info.st_mode)) return refused("a socket");
    if (exists && !S_ISREG(info.st_mode)) {
      TRY_ASSIGN(HostStream stream, HostStream::open(path, deadline));
      target.stream.emplace(std::move(stream));
      return target;
    }
    std::error_code error;
    const std::string real = is_link ? std::filesystem::canonical(path, error).string() : path;
    if (error) return fail_errno("cannot follow " + printable(path), error.value());
    TRY_ASSIGN(HostFile file, HostFile::create(real));
    target.file.emplace(std::move(file));
    return target;
  }

  Result<> write(std::string_view bytes, const Print& print) const {
    if (file) return write_all(file->fd(), bytes);
    return stream ? stream->write(bytes) : print(bytes);
  }
};

class Get {
 public:
  Get(GuestStream& stream, const Transfer& transfer)
      : stream_(stream), talk_(stream, 0, transfer), transfer_(transfer) {}

  // Learns size and mode; the conversation begins.
  Result<> begin() {
    TRY(talk_.tell(k_hello));
    TRY_ASSIGN(const std::string words, talk_.answer());
    const std::vector<std::string> parts = split(words, ' ');
    char* end = nullptr;
    size_ = std::strtoull(parts[0].c_str(), &end, 10);
    can_hash_ = parts.size() == 3 && parts[2] == "hash";
    if (parts.size() < 2 || *end != '\0')
      return fail(Code::agent, "the guest's stat(1) gave no size and mode");
    mode_ = static_cast<unsigned>(std::strtoul(parts[1].c_str(), nullptr, 8)) & k_get_mode_bits;
    return {};
  }

  Result<> run(const Print& print) {
    TRY_ASSIGN(hash_, pass(print));
    if (!is_checked()) return {};
    if (can_hash_) return compare_hash();
    TRY_ASSIGN(const std::string second, pass([](std::string_view) -> Result<> { return {}; }));
    if (second != hash_) return fail(changed());
    return {};
  }

  // Files of /proc and /sys have no size that stat(1) knows, and say another thing each time.
  bool is_checked() const { return transfer_.check && size_ > 0; }
  uint64_t bytes() const { return bytes_; }
  unsigned mode() const { return mode_; }
  std::string checksum() const { return is_checked() || bytes_ == 0 ? hash_ : std::string(); }

 private:
  Result<> compare_hash() {
    TRY(talk_.tell("hash\n"));
    TRY_ASSIGN(const std::string theirs, talk_.answer());
    if (theirs != guest_hash_.text()) return fail(changed());
    return {};
  }

  // All of the file once; its hash.
  Result<std::string> pass(const Print& print) {
    TRY(talk_.tell("send\n"));
    RunningHash hash;
    std::optional<std::string> answer;
    bytes_ = 0;
    while (!answer || bytes_ < size_) {
      pollfd ready[] = {{stream_.port(1).fd.get(), POLLIN, 0},
                        {answer ? -1 : talk_.fd(), POLLIN, 0},
                        {talk_.control(), POLLIN, 0}};
      // After the answer nothing new is written: what QEMU still holds comes at once, or never
      // where the file was shorter than it says.
      const int left_ms = talk_.deadline().left_ms();
      const int n = poll(ready, 3, answer ? std::min(left_ms, k_rest_ms) : left_ms);
      if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
      if (n == 0) return fail(answer && left_ms > k_rest_ms ? changed() : talk_.late());
      if (ready[0].revents != 0) {
        TRY(receive(hash, print));
      } else if (ready[1].revents != 0) {
        TRY(talk_.receive());
        TRY_ASSIGN(answer, talk_.next());
        if (answer && size_ > 0 && *answer != std::to_string(size_)) return fail(changed());
      } else if (ready[2].revents != 0) {
        return fail(talk_.ended());
      }
    }
    if (size_ == 0) TRY(receive_rest(hash, print));
    if (size_ > 0 && bytes_ != size_) return fail(changed());
    return hash.text();
  }

  Result<bool> receive(RunningHash& hash, const Print& print) {
    const ssize_t n = recv(stream_.port(1).fd.get(), chunk_.data(), chunk_.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) return fail(talk_.ended());
    bytes_ += static_cast<uint64_t>(n);
    const std::string_view bytes(chunk_.data(), static_cast<size_t>(n));
    hash.add(bytes);
    if (can_hash_) guest_hash_.add(bytes);
    TRY(print(bytes));
    return true;
  }

  // The script ends, and the supervisor tells when QEMU has handed over all.
  Result<> receive_rest(RunningHash& hash, const Print& print) {
    shutdown(talk_.fd(), SHUT_WR);
    while (true) {
      pollfd ready[] = {{stream_.port(1).fd.get(), POLLIN, 0}, {talk_.control(), POLLIN, 0}};
      const int n = poll(ready, 2, talk_.deadline().left_ms());
      if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
      if (n == 0) return fail(talk_.late());
      if (ready[0].revents != 0) {
        TRY(receive(hash, print));
      } else if (ready[1].revents != 0) {
        return {};
      }
    }
  }

  Error changed() const {
    return Error(Code::io, fmt::format("'{}' in the guest has changed while it was read",
                                       printable(transfer_.guest_path)));
  }

  GuestStream& stream_;
  ScriptTalk talk_;
  const Transfer& transfer_;
  std::string chunk_ = std::string(k_transfer_chunk, '\0');
  uint64_t size_ = 0, bytes_ = 0;
  unsigned mode_ = 0;
  std::string hash_;
  bool can_hash_ = false;
  GuestHash guest_hash_;
};

}  // namespace

Result<json> get_file(const Object& vm, const Transfer& transfer, const Print& print) {
  const uint64_t started_ns = system_clock().now_ns();
  TRY_ASSIGN(Target target, Target::open(transfer.host_path, Deadline::in_ns(transfer.timeout_ns)));
  TRY_ASSIGN(GuestStream stream, GuestStream::open(vm, "get", 2));
  TRY(stream.start(
      k_get_script,
      {std::to_string(stream.port(0).nr), std::to_string(stream.port(1).nr), transfer.guest_path},
      {}, transfer.timeout_ns + k_get_slack_ns));
  Get get(stream, transfer);
  TRY(get.begin());
  TRY(get.run([&](std::string_view bytes) { return target.write(bytes, print); }));
  if (target.file) TRY(target.file->keep(transfer.mode.value_or(get.mode())));
  return transfer_document(transfer, "get", get.bytes(), get.checksum(), started_ns);
}

}  // namespace pv::vm
