// SPDX-License-Identifier: MIT
// What an image stands on: the files that an overlay names in its header (qcow2 and qed), and what
// those name. Reads headers and nothing else; any thread.
#pragma once

#include <string>
#include <vector>

namespace pv::blk {

// The backing files of `path`, the next one first; empty for an image of its own. Ends where a name
// is no file here, or one comes again.
std::vector<std::string> backing_files(const std::string& path);

// Whether both names lead to the same file.
bool same_file(const std::string& a, const std::string& b);

}  // namespace pv::blk
