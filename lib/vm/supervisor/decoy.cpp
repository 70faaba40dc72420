// SPDX-License-Identifier: MIT
#include "vm/supervisor/decoy.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include "base/socket.hpp"

namespace pv::vm {

Result<std::unique_ptr<Decoy>> Decoy::make(Loop& loop, const std::string& path) {
  unlink(path.c_str());
  TRY_ASSIGN(Fd listener, listen_unix(path));
  std::unique_ptr<Decoy> decoy(new Decoy(loop, path, std::move(listener)));
  TRY(loop.watch(decoy->listener_.get(), EPOLLIN, [listener = decoy->listener_.get()](uint32_t) {
    while (accept_unix(listener)) {
    }
  }));
  return decoy;
}

Decoy::~Decoy() {
  loop_.unwatch(listener_.get());
  unlink(path_.c_str());
}

}  // namespace pv::vm
