// SPDX-License-Identifier: MIT
// From a child of the runner to the command: descriptors, signals, and the search for the program.
#pragma once

#include "guest/runner/system.hpp"

namespace runner {

struct Child {
  int in = -1, out = -1, err = -1;
  char** argv = nullptr;
  char** envp = nullptr;
  int error = 0;  // why it did not become the command
};

constexpr size_t k_stack = 16 << 10;
constexpr size_t k_max_folder = 2048, k_max_name = 2040;
alignas(16) inline char stack[k_stack];
inline char path[k_max_folder + k_max_name + 8];
inline char** environment = nullptr;

inline long try_program(Child& child, const char* path) {
  const long result = call(__NR_execve, word(path), word(child.argv), word(child.envp));
  if (result != -ENOEXEC) return -result;
  // A script without "#!". There is room before argv[0] for the shell.
  char** const argv = child.argv;
  argv[0] = const_cast<char*>(path);
  child.argv = argv - 1;
  child.argv[0] = const_cast<char*>("/bin/sh");
  call(__NR_execve, word(child.argv[0]), word(child.argv), word(child.envp));
  return ENOEXEC;
}

inline const char* search_path() {
  for (char** each = environment; *each; ++each)
    if (begins(*each, "PATH=")) return *each + 5;
  return "/bin:/usr/bin";
}

inline int try_all(Child& child) {
  const char* name = child.argv[0];
  for (const char* c = name; *c; ++c)
    if (*c == '/') return static_cast<int>(try_program(child, name));
  if (!*name) return ENOENT;
  int error = ENOENT;
  for (const char* from = search_path();; ++from) {
    char* to = path;
    while (*from && *from != ':' && to < path + k_max_folder) *to++ = *from++;
    if (to > path) *to++ = '/';
    if (length(name) >= k_max_name) return ENAMETOOLONG;
    *put(to, name) = '\0';
    const long result = try_program(child, path);
    if (result == EACCES) error = EACCES;
    if (result != EACCES && result != ENOENT && result != ENOTDIR) return static_cast<int>(result);
    if (!*from) return error;
  }
}

// As the agent's children are: signals are what they are by default.
inline void enter_child(void* argument) {
  Child& child = *static_cast<Child*>(argument);
  const unsigned long defaults[4] = {};
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM})
    call(__NR_rt_sigaction, signal, word(defaults), 0, 8);
  call(__NR_dup2, child.in, 0);
  call(__NR_dup2, child.out, 1);
  call(__NR_dup2, child.err, 2);
  child.error = try_all(child);
  call(__NR_exit_group, 127);
}

}  // namespace runner
