// SPDX-License-Identifier: MIT
#include "blk/wire.hpp"

#include <cerrno>

namespace pv::blk {
namespace {

int nbd_errno(Op op, int error) {
  switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
      return error;
    case EROFS:
    case EBADE:  // a reservation conflict: the medium is well, the host may not
      return EPERM;
    case ERANGE:  // past the end: the protocol asks for ENOSPC on writes, EINVAL otherwise
      return op == Op::write || op == Op::zero ? ENOSPC : EINVAL;
    case EDQUOT:
    case EFBIG:
      return ENOSPC;
    default:
      return EIO;
  }
}

// A virtio block device says OK, IOERR or UNSUPP (virtio 1.2, section 5.2.6).
int vhost_errno(int error) {
  return error == 0 || error == EOPNOTSUPP ? error : EIO;
}

}  // namespace

int delivered(Front front, Op op, int error) {
  switch (front) {
    case Front::host:
      return error;
    case Front::nbd:
      return nbd_errno(op, error);
    case Front::vhost:
      return vhost_errno(error);
  }
  return error;
}

}  // namespace pv::blk
