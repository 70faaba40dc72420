// SPDX-License-Identifier: MIT
// System calls and text for a program without a C library (pv-runner.cpp). Errors are negative
// numbers, as the kernel gives them.
#pragma once

#include <asm/unistd.h>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <initializer_list>
#include <linux/sched.h>
#include <poll.h>
#include <sys/mman.h>

namespace runner {

inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result = 0;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = 0;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

inline long word(const void* pointer) {
  return reinterpret_cast<long>(pointer);
}

inline long read_from(int fd, void* to, size_t size) {
  return call(__NR_read, fd, word(to), static_cast<long>(size));
}
inline long write_to(int fd, const void* from, size_t size) {
  return call(__NR_write, fd, word(from), static_cast<long>(size));
}
inline int open_file(const char* path, int flags) {
  return static_cast<int>(call(__NR_openat, AT_FDCWD, word(path), flags | O_CLOEXEC, 0));
}
inline void close_file(int& fd) {
  if (fd >= 0) call(__NR_close, fd);
  fd = -1;
}
inline long poll_for(pollfd* fds, size_t count, int timeout_ms) {
  return call(__NR_poll, word(fds), static_cast<long>(count), timeout_ms);
}
inline void pause_ms(int ms) {
  poll_for(nullptr, 0, ms);
}

// Memory of its own pages; null when there is none.
inline char* take_memory(size_t size) {
  const long at = call(__NR_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1);
  return at < 0 ? nullptr : reinterpret_cast<char*>(at);
}
inline char* resize_memory(char* memory, size_t from, size_t to) {
  const long at = call(__NR_mremap, word(memory), static_cast<long>(from), static_cast<long>(to),
                       MREMAP_MAYMOVE);
  return at < 0 ? nullptr : reinterpret_cast<char*>(at);
}
inline void drop_memory(char* memory, size_t size) {
  if (memory) call(__NR_munmap, word(memory), static_cast<long>(size));
}

inline size_t length(const char* text) {
  size_t n = 0;
  while (text[n]) ++n;
  return n;
}
inline bool begins(const char* text, const char* head) {
  while (*head && *text == *head) ++text, ++head;
  return *head == '\0';
}

// Text of a larger text: the place behind it.
inline char* put(char* to, const char* text) {
  while (*text) *to++ = *text++;
  return to;
}

inline char* put(char* to, unsigned long number) {
  char digits[24];
  size_t n = 0;
  do digits[n++] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  while (n > 0) *to++ = digits[--n];
  return to;
}

// How it goes on after a fork that shares memory: `enter(argument)` on a stack of its own, while
// the parent waits until the child has gone on to another program, or ended. The child's pid; its
// pidfd in `pidfd`.
inline long spawn(char* stack_end, void (*enter)(void*), void* argument, int& pidfd) {
  long result = 0;
  register long r10 asm("r10") = 0;
  register long r8 asm("r8") = word(reinterpret_cast<void*>(enter));
  register long r9 asm("r9") = word(argument);
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r9, %%rdi\n\t"
      "call *%%r8\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(static_cast<long>(__NR_clone)),
        "D"(static_cast<long>(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD)), "S"(stack_end),
        "d"(&pidfd), "r"(r10), "r"(r8), "r"(r9)
      : "rcx", "r11", "memory");
  return result;
}

}  // namespace runner
