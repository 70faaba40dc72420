// SPDX-License-Identifier: MIT
// Runs in the built-in guest, and runs commands there for the supervisor: what guest-exec of the
// agent does, in a third of its time. Under TCG every page fault and every switch between two
// programs is dear, so this is 10 KiB without a C library, shares its memory with the child until
// that has become the command, and tells of the end when it comes instead of being asked.
//   pv-runner NR                        serves the port of that number
//   pv-runner hash OFFSET LENGTH HEAD   prints HEAD and the XXH64 of a part of standard input: a
//                                       check of transfers
//
// Lines on the port org.provium.runner; ARGV and ENV are strings that end in a zero byte each.
//   to us      ping NONCE                          answered by: pong NONCE
//              run NONCE ID FLAGS ARGV ENV INPUT   1: output is wanted, 2: INPUT is its stdin
//                                                  base64, "-" for nothing (ENV "-": our own)
//   from us    hello NONCE                         once; a line with another is of an earlier boot
//              start ID PID                        or: fail ID ERRNO
//              out ID BASE64, err ID BASE64
//              end ID STATUS OUT_CUT ERR_CUT       STATUS as of wait(2); CUT: 1 when it was longer
#include "guest/runner/base64.hpp"
#include "guest/runner/child.hpp"
#include "guest/runner/hash.hpp"
#include "guest/runner/system.hpp"

using namespace runner;

namespace {

constexpr size_t k_max_runs = 256;
constexpr size_t k_max_strings = 65536;
constexpr size_t k_max_output = 16 << 20;  // of one stream
constexpr size_t k_piece = 48 << 10;       // a multiple of three: but for the last all are whole
constexpr size_t k_line = 64 << 10, k_max_line = 64 << 20;
constexpr int k_again_ms = 100;
constexpr int k_wants_output = 1, k_has_input = 2;

struct Stream {
  int fd = -1;
  size_t bytes = 0;
  bool cut = false;
};

struct Run {
  bool used = false, ended = false;
  unsigned long id = 0;
  int pid = 0, pidfd = -1, in = -1, status = 0;
  Stream out, err;
  char* input = nullptr;
  size_t input_bytes = 0, input_sent = 0;
};

constinit Run runs[k_max_runs];
size_t runs_end = 0;  // behind the last that is used
pollfd polled[1 + 4 * k_max_runs];
char* strings[k_max_strings + 4];
char piece[k_piece];
char answer[k_piece / 3 * 4 + 128];
char nonce[17];
char* line_buffer = nullptr;
size_t line_bytes = 0, line_room = k_line;
int port = -1, null_fd = -1;

// --- what we say ------------------------------------------------------------------------------

// The port does not block: a blocking one spins until QEMU has taken what was written.
void say(char* end) {
  *end++ = '\n';
  const char* from = answer;
  while (from < end) {
    const long n = write_to(port, from, static_cast<size_t>(end - from));
    if (n > 0) {
      from += n;
      continue;
    }
    pollfd room{port, POLLOUT, 0};
    poll_for(&room, 1, k_again_ms);
    if ((room.revents & POLLOUT) == 0) pause_ms(k_again_ms);  // nobody is connected
  }
}

char* about(const char* what, const Run& run) {
  return put(put(put(answer, what), " "), run.id);
}

void say(const char* what, const Run& run, unsigned long number) {
  say(put(put(about(what, run), " "), number));
}

// --- a run ------------------------------------------------------------------------------------

// What of a pipe is ours does not block; the child's end has the usual manners.
bool make_pipe(int& ours, int& theirs, bool we_read) {
  int ends[2];
  if (call(__NR_pipe2, word(ends), O_CLOEXEC) < 0) return false;
  ours = ends[we_read ? 0 : 1];
  theirs = ends[we_read ? 1 : 0];
  call(__NR_fcntl, ours, F_SETFL, O_NONBLOCK);
  return true;
}

void forget(Run& run) {
  for (int* fd : {&run.in, &run.out.fd, &run.err.fd, &run.pidfd}) close_file(*fd);
  drop_memory(run.input, run.input_bytes);
  run = Run();
}

long start(Run& run, Child& child, int flags) {
  int in = -1, out = -1, err = -1;
  const bool piped = ((flags & k_has_input) == 0 || make_pipe(run.in, in, false)) &&
                     ((flags & k_wants_output) == 0 ||
                      (make_pipe(run.out.fd, out, true) && make_pipe(run.err.fd, err, true)));
  child.in = in < 0 ? null_fd : in;
  child.out = out < 0 ? null_fd : out;
  child.err = err < 0 ? null_fd : err;
  const long pid = piped ? spawn(stack + k_stack, enter_child, &child, run.pidfd) : -EMFILE;
  for (int* fd : {&in, &out, &err}) close_file(*fd);
  if (pid < 0) return pid;
  run.pid = static_cast<int>(pid);
  if (child.error == 0) return pid;
  call(__NR_wait4, pid, 0, 0, 0);
  return -child.error;
}

void send_input(Run& run) {
  while (run.input_sent < run.input_bytes) {
    const long n = write_to(run.in, run.input + run.input_sent, run.input_bytes - run.input_sent);
    if (n == -EAGAIN) return;
    if (n < 0) break;  // it does not want more
    run.input_sent += static_cast<size_t>(n);
  }
  close_file(run.in);
}

void receive(const char* what, const Run& run, Stream& stream) {
  const long n = read_from(stream.fd, piece, k_piece);
  if (n == -EAGAIN || n == -EINTR) return;
  if (n <= 0) return close_file(stream.fd);
  size_t bytes = static_cast<size_t>(n);
  if (bytes > k_max_output - stream.bytes) {
    bytes = k_max_output - stream.bytes;
    stream.cut = true;
  }
  stream.bytes += bytes;
  if (bytes == 0) return;
  char* const to = put(about(what, run), " ");
  say(to + encode(piece, bytes, to));
}

void reap(Run& run) {
  if (call(__NR_wait4, run.pid, word(&run.status), 1 /* WNOHANG */, 0) == 0) return;
  run.ended = true;
  close_file(run.pidfd);
}

// All that it wrote is wanted, also by children that it has left behind.
void end_if_over(Run& run) {
  if (!run.used || !run.ended || run.out.fd >= 0 || run.err.fd >= 0) return;
  char* to = put(put(about("end", run), " "), static_cast<unsigned long>(run.status));
  to = put(to, run.out.cut ? " 1" : " 0");
  say(put(to, run.err.cut ? " 1" : " 0"));
  forget(run);
}

// --- what we are told -------------------------------------------------------------------------

// The word at `at`, which is moved behind it.
char* next_word(char*& at) {
  char* const begin = at;
  while (*at && *at != ' ') ++at;
  if (*at) *at++ = '\0';
  return begin;
}

unsigned long number(const char* text) {
  unsigned long value = 0;
  for (; *text >= '0' && *text <= '9'; ++text)
    value = value * 10 + static_cast<unsigned long>(*text - '0');
  return value;
}

// A list of strings from base64, in `to`, with a null at its end; the place behind that, or null
// when they are too many.
char** unpack(char* text, char** to) {
  const size_t size = decode(text);
  for (size_t i = 0; i < size; i += length(text + i) + 1) {
    if (to >= strings + k_max_strings) return nullptr;
    *to++ = text + i;
  }
  *to++ = nullptr;
  return to;
}

bool take_input(Run& run, const char* text) {
  const size_t room = length(text) + 1;
  char* const memory = take_memory(room);
  if (!memory) return false;
  for (size_t i = 0; i < room; ++i) memory[i] = text[i];
  const size_t bytes = decode(memory);
  run.input = bytes == 0 ? nullptr : resize_memory(memory, room, bytes);
  if (bytes == 0) drop_memory(memory, room);
  run.input_bytes = bytes;
  return true;
}

Run* free_run() {
  for (Run& run : runs)
    if (!run.used) return &run;
  return nullptr;
}

void take_line(char* line) {
  char* at = line;
  const char* const what = next_word(at);
  const char* const theirs = next_word(at);
  if (length(theirs) != length(nonce) || !begins(theirs, nonce)) return;
  if (begins(what, "ping")) return say(put(put(answer, "pong "), nonce));
  if (!begins(what, "run")) return;
  Run none;
  Run* const free = free_run();
  Run& run = free ? *free : none;
  run.id = number(next_word(at));
  const int flags = static_cast<int>(number(next_word(at)));
  char* const argv = next_word(at);
  char* const env = next_word(at);
  Child child;
  child.argv = strings + 1;  // see try_program()
  child.envp = unpack(argv, child.argv);
  long pid = -EAGAIN;
  if (!child.envp || child.envp == child.argv + 1)
    pid = -E2BIG;
  else if (*env == '-')
    child.envp = environment;
  else if (!unpack(env, child.envp))
    pid = -E2BIG;
  if (free && pid != -E2BIG)
    pid = (flags & k_has_input) != 0 && !take_input(run, next_word(at)) ? -ENOMEM
                                                                        : start(run, child, flags);
  if (pid < 0) {
    say("fail", run, static_cast<unsigned long>(-pid));
    return forget(run);
  }
  run.used = true;
  if (runs_end <= static_cast<size_t>(&run - runs)) runs_end = static_cast<size_t>(&run - runs) + 1;
  say("start", run, static_cast<unsigned long>(pid));
  if (run.in >= 0) send_input(run);
}

// Large ones are rare: their memory is given back.
void shrink_line() {
  if (line_bytes > 0 || line_room == k_line) return;
  if (char* const smaller = resize_memory(line_buffer, line_room, k_line)) line_buffer = smaller;
  line_room = k_line;
}

void read_port() {
  if (line_bytes + 1 >= line_room) {
    char* const larger =
        line_room < k_max_line ? resize_memory(line_buffer, line_room, 2 * line_room) : nullptr;
    if (larger) line_buffer = larger;
    if (larger)
      line_room *= 2;
    else
      line_bytes = 0;  // it is no line of ours
  }
  const long n = read_from(port, line_buffer + line_bytes, line_room - line_bytes - 1);
  if (n <= 0) return pause_ms(k_again_ms);  // nobody is connected
  size_t searched = line_bytes, begin = 0;
  line_bytes += static_cast<size_t>(n);
  for (; searched < line_bytes; ++searched) {
    if (line_buffer[searched] != '\n') continue;
    line_buffer[searched] = '\0';
    take_line(line_buffer + begin);
    begin = searched + 1;
  }
  for (size_t i = begin; i < line_bytes && begin > 0; ++i) line_buffer[i - begin] = line_buffer[i];
  line_bytes -= begin;
  shrink_line();
}

// --- the port ---------------------------------------------------------------------------------

bool has_our_name(const char* device) {
  char path[80], name[64];
  *put(put(put(path, "/sys/class/virtio-ports/"), device), "/name") = '\0';
  int fd = open_file(path, O_RDONLY);
  if (fd < 0) return false;
  const long n = read_from(fd, name, sizeof name - 1);
  close_file(fd);
  name[n > 0 ? n : 0] = '\0';
  return begins(name, "org.provium.runner\n");
}

// It may not be there at all, under another program than ours.
bool open_port(unsigned long nr) {
  for (int tries = 0; tries < 300; ++tries) {
    for (unsigned long bus = 0; bus < 8; ++bus) {
      char path[64];
      char* const device = put(path, "/dev/");
      *put(put(put(put(device, "vport"), bus), "p"), nr) = '\0';
      if (has_our_name(device)) port = open_file(path, O_RDWR | O_NONBLOCK);
      if (port >= 0) return true;
    }
    pause_ms(k_again_ms);
  }
  return false;
}

void serve() {
  size_t count = 1;
  polled[0] = {port, POLLIN, 0};
  const auto add = [&](int fd, short events) {
    if (fd >= 0) polled[count++] = {fd, events, 0};
  };
  while (runs_end > 0 && !runs[runs_end - 1].used) --runs_end;
  for (size_t i = 0; i < runs_end; ++i) {
    const Run& run = runs[i];
    if (!run.used) continue;
    add(run.in, POLLOUT);
    add(run.out.fd, POLLIN);
    add(run.err.fd, POLLIN);
    add(run.pidfd, POLLIN);
  }
  poll_for(polled, count, -1);
  const auto is_ready = [&](int fd) {
    for (size_t i = 1; i < count; ++i)
      if (polled[i].fd == fd && fd >= 0) return polled[i].revents != 0;
    return false;
  };
  for (size_t i = 0; i < runs_end; ++i) {
    Run& run = runs[i];
    if (!run.used) continue;
    if (is_ready(run.in)) send_input(run);
    if (is_ready(run.out.fd)) receive("out", run, run.out);
    if (is_ready(run.err.fd)) receive("err", run, run.err);
    if (is_ready(run.pidfd)) reap(run);
    end_if_over(run);
  }
  if (polled[0].revents != 0) read_port();
}

void make_nonce() {
  unsigned char random[8] = {};
  call(__NR_getrandom, word(random), sizeof random, 1 /* GRND_NONBLOCK */);
  for (size_t i = 0; i < sizeof random; ++i) {
    nonce[2 * i] = static_cast<char>('a' + (random[i] & 15));
    nonce[2 * i + 1] = static_cast<char>('a' + (random[i] >> 4));
  }
}

}  // namespace

// Called with the stack as the kernel has left it: argc, argv, null, environment.
extern "C" [[gnu::used]] void run_for_ever(long* at) {
  char** const argv = reinterpret_cast<char**>(at + 1);
  environment = argv + at[0] + 1;
  if (at[0] == 5 && begins(argv[1], "hash"))
    call(__NR_exit_group, print_hash(number(argv[2]), number(argv[3]), argv[4]));
  const unsigned long ignore[4] = {1, 0, 0, 0};
  call(__NR_rt_sigaction, SIGPIPE, word(ignore), 0, 8);
  null_fd = open_file("/dev/null", O_RDWR);
  line_buffer = take_memory(k_line);
  if (at[0] != 2 || null_fd < 0 || !line_buffer || !open_port(number(argv[1])))
    call(__NR_exit_group, 1);
  make_nonce();
  // What the last boot has left half said ends here.
  say(put(put(put(answer, "\nhello "), nonce), ""));
  while (true) serve();
}

asm(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run_for_ever\n hlt\n");

extern "C" {
[[gnu::used]] void* memset(void* to, int byte, size_t size) {
  for (size_t i = 0; i < size; ++i) static_cast<volatile char*>(to)[i] = static_cast<char>(byte);
  return to;
}
[[gnu::used]] void* memcpy(void* to, const void* from, size_t size) {
  for (size_t i = 0; i < size; ++i)
    static_cast<volatile char*>(to)[i] = static_cast<const char*>(from)[i];
  return to;
}
}
