// SPDX-License-Identifier: MIT
// libnbd at the NBD server that stands beside ours: what a request becomes there. One thread.
#pragma once

#include "../conform/libnbd.hpp"
#include "ours.hpp"

namespace pv::test::vhost {

class NbdClient {
 public:
  explicit NbdClient(OurServer& ours) : nbd_(libnbd().nbd_create()) {
    libnbd().nbd_set_strict_mode(nbd_, 0);  // the server is to say what is wrong
    REQUIRE(libnbd().nbd_connect_unix(nbd_, ours.nbd_socket().c_str()) == 0);
  }
  ~NbdClient() { libnbd().nbd_close(nbd_); }
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;

  // An errno each, 0 when it is well.
  int read(uint64_t offset, size_t length) {
    data.assign(length, '?');
    return outcome(libnbd().nbd_pread(nbd_, data.data(), length, offset, 0));
  }
  int write(uint64_t offset, std::string_view bytes) {
    return outcome(libnbd().nbd_pwrite(nbd_, bytes.data(), bytes.size(), offset, 0));
  }
  int flush() { return outcome(libnbd().nbd_flush(nbd_, 0)); }
  int trim(uint64_t offset, uint64_t length) {
    return outcome(libnbd().nbd_trim(nbd_, length, offset, 0));
  }
  int zero(uint64_t offset, uint64_t length) {
    return outcome(libnbd().nbd_zero(nbd_, length, offset, 0));
  }
  int64_t size() { return libnbd().nbd_get_size(nbd_); }
  bool is_read_only() { return libnbd().nbd_is_read_only(nbd_) == 1; }

  std::string data;  // of the last read

 private:
  static int outcome(int result) { return result == 0 ? 0 : libnbd().nbd_get_errno(); }
  nbd_handle* nbd_;
};

}  // namespace pv::test::vhost
