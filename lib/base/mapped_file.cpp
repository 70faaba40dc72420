// SPDX-License-Identifier: MIT
#include "base/mapped_file.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>

namespace pv {

Result<MappedFile> MappedFile::open(const std::string& path, size_t size) {
  MappedFile file;
  file.fd_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.fd_) return fail_errno("cannot open " + path, errno);
  if (flock(file.fd_.get(), LOCK_EX | LOCK_NB) < 0) return fail(Code::in_use, path + " is in use");
  // Room is taken now: a store to a page that the file system has no room for would be a signal.
  if (const int error = posix_fallocate(file.fd_.get(), 0, static_cast<off_t>(size)); error != 0)
    return fail_errno("cannot make room in " + path, error);
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd_.get(), 0);
  if (at == MAP_FAILED) return fail_errno("cannot map " + path, errno);
  file.data_ = static_cast<char*>(at);
  file.size_ = size;
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace pv
