// SPDX-License-Identifier: MIT
// The file of a write log when its recorder starts: a new one, or one that is gone on with when it
// is of this very disk. Waits for reads of the disk, on the loop.
#pragma once

#include <string>

#include "blk/record/writer.hpp"

namespace pv::blk {

struct OpenedLog {
  LogWriter::Parts parts;
  uint64_t last = 0;       // number of the last request that is there
  bool continued = false;  // a session begins
  bool gap = false;        // and what happened to the disk before it is not known
};

// Code::duplicate_name for a file that is there, unless `append`; Code::incompatible when it is the
// log of another disk.
Result<OpenedLog> open_log(const std::string& path, bool append, Disk& disk, const Env& env);

}  // namespace pv::blk
