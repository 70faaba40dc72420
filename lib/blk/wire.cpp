// SPDX-License-Identifier: MIT
#include "blk/wire.hpp"

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

}  // namespace

int delivered(Front front, Op op, int error) {
  return front == Front::nbd ? nbd_errno(op, error) : error;
}

}  // namespace pv::blk
