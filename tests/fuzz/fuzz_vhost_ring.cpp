// SPDX-License-Identifier: MIT
// A guest that puts anything into its rings. The input is a program: it writes descriptors, tables
// and requests, makes heads available, and lets the device look. Each head that the device takes
// must be answered once, in order; the device writes no descriptor, nothing into the available
// ring, and no byte beside the regions.
#include <algorithm>

#include "vhost_client.hpp"

namespace {

using namespace pv;
using namespace pv::fuzz;
using namespace pv::vhost;

// Two regions of data and one of rings. No address that a program can make lies in that one, so
// that the rings are the device's and ours alone.
constexpr uint64_t k_first = 0x10000, k_second = 0x18000, k_data = 0x8000;  // they touch
constexpr uint64_t k_rings = uint64_t{0x7f5566770000}, k_rings_size = 0x4000;
constexpr uint64_t k_avail = 0x1000, k_used = 0x2000;
constexpr uint64_t k_before = 0x2000;  // bytes of a file in front of its region

class Program {
 public:
  Program(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  bool ended() const { return at_ == end_; }
  uint8_t byte() { return ended() ? 0 : *at_++; }
  uint16_t word() { return static_cast<uint16_t>(byte() << 8 | byte()); }
  uint64_t address() {
    const uint64_t low = word();
    switch (byte() % 8) {
      case 0:
        return k_second + k_data - low % 64;
      case 1:
        return k_second - low % 64;
      case 2:
        return UINT64_MAX - low % 8192;
      case 3:
        return low << 48;
      default:
        return k_first + low % (2 * k_data);
    }
  }
  uint32_t length() {
    const uint16_t low = word();
    switch (byte() % 8) {
      case 0:
        return UINT32_MAX - low;
      case 1:
        return uint32_t{low} << 16;
      case 2:
        return 0;
      case 3:
        return low % 64;
      default:
        return low % 9 * 512;
    }
  }
  uint64_t sector() {
    const uint16_t low = word();
    switch (byte() % 8) {
      case 0:
        return UINT64_MAX - low;
      case 1:
        return (uint64_t{1} << 55) + low;
      default:
        return low % 2100;
    }
  }
  uint32_t type() {
    constexpr uint32_t k_types[] = {0, 1, 4, 8, 11, 13, 0, 1};
    const uint8_t one = byte();
    return one < 0xf0 ? k_types[one % 8] : one;
  }

 private:
  const uint8_t *at_, *end_;
};

class Guest {
 public:
  Guest(Client& client, Program& program) : client_(client), p_(program) {
    const uint8_t how = p_.byte();
    size_ = static_cast<uint16_t>(1 << how % 7);
    next_ = told_ = used_ = (how & 0x80) != 0 ? p_.word() : 0;
    for (Part& part : parts_) {
      part.file = make_file(k_before + part.about.size);
      part.bytes = static_cast<char*>(mmap(nullptr, k_before + part.about.size,
                                           PROT_READ | PROT_WRITE, MAP_SHARED, part.file.get(), 0));
      std::memset(part.bytes, 0x5a, k_before);
    }
    shared<uint16_t>(k_avail)[1] = shared<uint16_t>(k_used)[1] = next_;
    client_.tell(k_set_features, k_f_version_1 | ((how & 8) != 0 ? k_f_indirect : 0) |
                                     ((how & 16) != 0 ? k_f_event_idx : 0));
    share();
    start();
  }
  ~Guest() {
    for (Part& part : parts_) munmap(part.bytes, k_before + part.about.size);
  }

  void run() {
    while (!p_.ended() && !client_.is_gone()) {
      operate();
      if (p_.ended() || p_.byte() % 4 == 0) look();
    }
    look();
    check_borders();
  }

 private:
  struct Part {
    MemRegion about;
    Fd file = {};
    char* bytes = nullptr;
  };

  template <class T>
  T* shared(uint64_t offset) {
    return reinterpret_cast<T*>(parts_[2].bytes + k_before + offset);
  }

  void share() {
    std::vector<MemRegion> regions;
    std::vector<int> fds;
    for (const Part& part : parts_) {
      regions.push_back(part.about);
      fds.push_back(part.file.get());
    }
    client_.tell_memory(regions, fds);
  }

  void start() {
    client_.tell(k_set_vring_num, VringState{0, size_});
    client_.tell(k_set_vring_base, VringState{0, next_});
    client_.tell(k_set_vring_addr,
                 VringAddr{0, 0, k_rings, k_rings + k_used, k_rings + k_avail, 0});
    client_.tell(k_set_vring_kick, uint64_t{0}, {event_.get()});
    poisoned_ = false;
  }

  // Of the guest's memory: cut off where a region ends.
  void write(uint64_t guest, const void* from, size_t count) {
    for (const Part& part : {std::cref(parts_[0]), std::cref(parts_[1])}) {
      const MemRegion& about = part.about;
      if (guest < about.guest || guest >= about.guest + about.size) continue;
      const uint64_t into = guest - about.guest;
      std::memcpy(part.bytes + k_before + into, from, std::min<size_t>(count, about.size - into));
    }
  }

  Desc descriptor() {
    Desc desc{p_.address(), p_.length(), 0, 0};
    const uint8_t flags = p_.byte();
    desc.flags = static_cast<uint16_t>(flags < 0xf0 ? flags % 4 : flags % 8);
    desc.next = static_cast<uint16_t>(p_.byte() % (size_ + 1));
    return desc;
  }

  // A request as it should be, but for what the program makes of it.
  void request(Desc* table, uint16_t first, uint16_t room) {
    if (room < 3) return;
    const uint64_t at = k_first + p_.word() % (2 * k_data - 64);
    const BlkHeader head{p_.type(), 0, p_.sector()};
    write(at, &head, sizeof head);
    const BlkRange range{p_.sector(), p_.byte(), p_.byte() % 3U};
    write(at + 16, &range, sizeof range);
    const bool ranged = head.type == 11 || head.type == 13;
    const auto flags = static_cast<uint16_t>(head.type == 0 || head.type == 8 ? 2 : 0);
    const auto index = [&](int i) { return static_cast<uint16_t>((first + i) % room); };
    table[index(0)] = {at, 16, 1, index(1)};
    table[index(1)] = {ranged ? at + 16 : p_.address(), ranged ? 16 : p_.length(),
                       static_cast<uint16_t>(flags | 1), index(2)};
    table[index(2)] = {at + 40, 1, 2, 0};
    if (p_.byte() % 4 == 0) table[index(p_.byte() % 3)] = descriptor();
  }

  void operate() {
    switch (p_.byte() % 8) {
      case 0:
        shared<Desc>(0)[p_.byte() % size_] = descriptor();
        return;
      case 1:
      case 2: {
        const auto first = static_cast<uint16_t>(p_.byte() % size_);
        request(shared<Desc>(0), first, size_);
        return publish(first);
      }
      case 3: {  // a table
        Desc table[8] = {};
        request(table, p_.byte() % 2, 8);
        const uint64_t at = p_.address() & ~uint64_t{15};
        write(at, table, sizeof table);
        const auto head = static_cast<uint16_t>(p_.byte() % size_);
        const uint8_t odd = p_.byte();
        shared<Desc>(0)[head] = {at, odd < 0xf0 ? 128U : odd, 4, 0};
        return publish(head);
      }
      case 4:
        return publish(p_.byte());
      case 5: {  // bytes that make up no address of the rings
        char bytes[16];
        for (char& c : bytes) c = static_cast<char>(p_.byte() & 0x3f);
        return write(p_.address(), bytes, sizeof bytes);
      }
      case 6:
        return restart();
      case 7:
        if (p_.byte() % 16 != 0) return;
        published_.clear();
        told_ = p_.word();
        for (uint16_t i = next_; i != told_ && published_.size() <= size_; ++i)
          published_.push_back(shared<uint16_t>(k_avail)[2 + i % size_]);
        shared<uint16_t>(k_avail)[1] = told_;
        return;
    }
  }

  // Not over a head that was not looked at yet.
  void publish(uint16_t head) {
    if (published_.size() >= size_) look();
    if (poisoned_ || published_.size() >= size_) return;
    shared<uint16_t>(k_avail)[2 + told_ % size_] = head;
    published_.push_back(head);
    shared<uint16_t>(k_avail)[1] = ++told_;
  }

  void restart() {
    look();
    if (p_.byte() % 2 == 0) share();
    client_.tell(k_get_vring_base, VringState{0, 0});
    if (poisoned_) shared<uint16_t>(k_avail)[1] = told_ = next_;
    published_.clear();
    start();
    client_.step();
  }

  void look() {
    const std::string table(shared<char>(0), 16 * size_);
    const std::string avail(shared<char>(k_avail), 4 + 2 * size_);
    const uint64_t one = 1;
    if (::write(event_.get(), &one, sizeof one) != sizeof one) abort();
    for (int i = 0; i < 3; ++i) client_.step();
    if (client_.is_gone()) abort();
    if (std::memcmp(table.data(), shared<char>(0), table.size()) != 0) abort();
    if (std::memcmp(avail.data(), shared<char>(k_avail), avail.size()) != 0) abort();
    poisoned_ = poisoned_ || static_cast<uint16_t>(told_ - next_) > size_;
    if (poisoned_) published_.clear();
    for (const uint16_t head : published_) {
      const auto* used = shared<UsedElem>(k_used + 4) + used_ % size_;
      if (used->id != head) abort();
      ++used_;
      ++next_;
    }
    published_.clear();
    if (shared<uint16_t>(k_used)[1] != used_) abort();
  }

  void check_borders() {
    for (const Part& part : parts_)
      for (uint64_t i = 0; i < k_before; ++i)
        if (part.bytes[i] != 0x5a) abort();
  }

  Client& client_;
  Program& p_;
  Part parts_[3] = {{{k_first, k_data, 0x510000000000, k_before}},
                    {{k_second, k_data, 0x520000000000, k_before}},
                    {{k_rings, k_rings_size, k_rings, k_before}}};
  Fd event_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  uint16_t size_ = 0;
  uint16_t told_ = 0;                // the available index
  uint16_t next_ = 0;                // what the device has taken
  uint16_t used_ = 0;                // the used index
  std::vector<uint16_t> published_;  // and not looked at yet
  bool poisoned_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto loop = std::move(*Loop::create());
  static const auto disk = make_disk();
  be_quiet();
  const int before = next_descriptor();
  {
    Program program(data, size);
    Client client(*disk, *loop);
    Guest guest(client, program);
    guest.run();
    client.end();
  }
  if (next_descriptor() != before) abort();
  return 0;
}
