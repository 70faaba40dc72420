// SPDX-License-Identifier: MIT
// A vhost-user client that says anything: the device takes it or hangs up, and is gone without a
// request or a descriptor left once the client is. Each record of the input is a message, whose
// descriptors are chosen by a byte; a queue may be set up rightly before.
#include "vhost_client.hpp"

namespace {

using namespace pv;
using namespace pv::fuzz;
using namespace pv::vhost;

constexpr uint64_t k_memory = 64 << 10;

// Rings at the start of the memory; addresses are small numbers, which an input finds.
void set_up(Client& client, int memory, int event, uint8_t how) {
  client.tell(k_set_protocol_features, k_proto_mq | k_proto_log_shmfd | k_proto_reply_ack |
                                           k_proto_backend_req | k_proto_config | k_proto_inflight |
                                           k_proto_reset_device | k_proto_mem_slots);
  if ((how & 2) == 0) return;
  client.tell(k_set_features, k_f_version_1 | k_f_indirect | k_f_protocol | k_f_log_all |
                                  ((how & 4) != 0 ? k_f_event_idx : 0));
  client.tell_memory({{0, k_memory, 0, 0}}, {memory});
  client.tell(k_set_vring_num, VringState{0, 8});
  client.tell(k_set_vring_addr, VringAddr{0, 1, 0, 0x200, 0x100, 0});
  if ((how & 8) == 0) return;
  client.tell(k_set_vring_kick, uint64_t{0}, {event});
  client.tell(k_set_vring_call, uint64_t{0}, {event});
  client.tell(k_set_vring_enable, VringState{0, 1});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto loop = std::move(*Loop::create());
  static const auto disk = make_disk();
  be_quiet();
  if (size == 0) return 0;
  const int before = next_descriptor();
  {
    std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    Client client(*disk, *loop);
    const Fd memory = make_file(k_memory), event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const Fd small = make_file(100), none(open("/dev/null", O_RDWR | O_CLOEXEC));
    const int choice[] = {memory.get(), event.get(), small.get(), none.get()};
    if ((data[0] & 1) != 0) set_up(client, memory.get(), event.get(), data[0]);
    while (!client.is_gone()) {
      const auto record = next_record(input, choice);
      if (!record) break;
      // Bytes of the next record may be what is said to be still to come.
      client.send(record->bytes, record->fds);
      if (!record->spare_flag) continue;
      // What the guest's memory holds now.
      const off_t at = record->spare_bits * 16;
      if (pwrite(memory.get(), record->payload.data(), record->payload.size(), at) < 0) abort();
      const uint64_t one = 1;
      if (write(event.get(), &one, sizeof one) != sizeof one) abort();
      client.step();
    }
    client.end();
  }
  if (next_descriptor() != before) abort();
  return 0;
}
