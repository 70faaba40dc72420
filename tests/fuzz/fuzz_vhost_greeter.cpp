// SPDX-License-Identifier: MIT
// A vhost-user client that says anything to the one who greets it: it is answered, hung up on, or
// handed over with all that it has said, and what the server makes of that is the server's matter
// (fuzz_vhost_messages). Once the client is gone nothing of it is left, and the next one is
// greeted. The records are those of the messages; one with its spare flag begins another client
// beside it.
#include <unistd.h>

#include <fmt/format.h>

#include "base/line_channel.hpp"
#include "base/socket.hpp"
#include "front/vhost/config.hpp"
#include "front/vhost/greeter.hpp"
#include "front/vhost/server.hpp"
#include "vhost_client.hpp"

namespace {

using namespace pv;
using namespace pv::fuzz;
using namespace pv::vhost;

// A greeter and its server for all inputs, as a disk has them for all of its clients.
class Place {
 public:
  Place() : loop_(std::move(*Loop::create())), disk_(make_disk()) {
    int doors[2];
    constexpr int k_type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
    if (socketpair(AF_UNIX, k_type, 0, doors) != 0) abort();
    door_ = Fd(doors[0]);
    server_ = std::make_unique<Server>(*loop_, Fd(doors[1]), *disk_, counters_,
                                       Identity{"serial", ""}, true);
    path_ = fmt::format("/tmp/pv-fuzz-greeter.{}", getpid());
    greeter_ = std::make_unique<Greeter>(
        *loop_, std::move(*listen_unix(path_)), [this] { return features_of(disk_->geometry()); },
        [this](const Handover& handover) {
          static_cast<void>(send_handover(door_.get(), handover));
        });
    if (!server_->start() || !greeter_->start()) abort();
  }
  ~Place() { unlink(path_.c_str()); }

  Fd connect() {
    Fd client = try_connect(path_);
    if (!client) abort();
    fcntl(client.get(), F_SETFL, fcntl(client.get(), F_GETFL) | O_NONBLOCK);
    return client;
  }
  Loop& loop() { return *loop_; }

  // After the last client has hung up.
  void look() {
    for (int i = 0; i < 20; ++i) static_cast<void>(loop_->run_once(0));
    if (server_->connections() != 0 || counters_.in_flight() != 0) abort();
    const Fd client = connect();
    const Header ask{k_get_features, k_version, 0};
    say_only(client.get(), ask);
    char answer[sizeof(Header) + sizeof(uint64_t)];
    if (recv(client.get(), answer, sizeof answer, 0) != sizeof answer) abort();
  }

 private:
  void say_only(int socket, const Header& ask) {
    if (send(socket, &ask, sizeof ask, MSG_NOSIGNAL) != sizeof ask) abort();
    for (int i = 0; i < 4; ++i) static_cast<void>(loop_->run_once(0));
  }

  std::unique_ptr<Loop> loop_;
  std::unique_ptr<blk::Disk> disk_;
  blk::Counters counters_;
  std::string path_;
  Fd door_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Greeter> greeter_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Place place;
  be_quiet();
  const int before = next_descriptor();
  {
    std::string_view input(reinterpret_cast<const char*>(data), size);
    const Fd memory = make_file(64 << 10), event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const Fd small = make_file(100), none(open("/dev/null", O_RDWR | O_CLOEXEC));
    const int choice[] = {memory.get(), event.get(), small.get(), none.get()};
    std::vector<Fd> clients;
    clients.push_back(place.connect());
    while (const auto record = next_record(input, choice)) {
      constexpr size_t k_max_clients = 12;  // more than a greeter listens to at once
      if (record->spare_flag && clients.size() < k_max_clients) clients.push_back(place.connect());
      say(clients[record->spare_bits / 4U % clients.size()].get(), place.loop(), record->bytes,
          record->fds);
    }
    clients.clear();
    place.look();
  }
  for (int i = 0; i < 4; ++i) static_cast<void>(place.loop().run_once(0));
  if (next_descriptor() != before) abort();
  return 0;
}
