// SPDX-License-Identifier: MIT
#include "vm/machine.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr const char* k_qemu = "qemu-system-x86_64";
constexpr uint64_t k_machine_probe_ms = 10'000;

// The file that execvp() would run; "" when there is none.
std::string in_path(const std::string& program) {
  if (program.find('/') != std::string::npos)
    return access(program.c_str(), X_OK) == 0 ? absolute_path(program) : "";
  const char* path = getenv("PATH");
  for (const std::string& dir : split(path ? path : "/usr/bin:/bin", ':')) {
    const std::string file = (dir.empty() ? "." : dir) + "/" + program;
    struct stat st {};
    if (stat(file.c_str(), &st) == 0 && S_ISREG(st.st_mode) && access(file.c_str(), X_OK) == 0)
      return absolute_path(file);
  }
  return "";
}

// What identifies the very same QEMU: path, size and time of change.
std::string fingerprint(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) < 0) return path;
  return fmt::format("{}:{}:{}.{}", path, st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

// Whether one line of its help has both.
bool helps_with(const std::string& help, std::string_view option, std::string_view part) {
  for (const std::string& line : split(help, '\n'))
    if (line.rfind(option, 0) == 0 && line.find(part) != std::string::npos) return true;
  return false;
}

std::string version_in(const std::string& text) {
  const size_t at = text.find("version ");
  if (at == std::string::npos) return "";
  const size_t from = at + 8;
  return text.substr(from, text.find_first_not_of("0123456789.", from) - from);
}

Result<Qemu> probe(const std::string& path) {
  Qemu qemu;
  qemu.path = path;
  TRY_ASSIGN(const Output plain,
             run_program({path, "-version"}, Deadline::in_ms(k_machine_probe_ms)));
  qemu.version = version_in(plain.out);
  if (qemu.version.empty())
    return fail(Code::unavailable,
                fmt::format("{} -version says no version ({})", path, plain.status.describe()));
  TRY_ASSIGN(const Output boxed, run_program({path, "-sandbox", "on", "-version"},
                                             Deadline::in_ms(k_machine_probe_ms)));
  TRY_ASSIGN(const Output help, run_program({path, "-help"}, Deadline::in_ms(k_machine_probe_ms)));
  qemu.sandbox = boxed.status.code == 0 && boxed.status.signal == 0 &&
                 help.out.find("-sandbox") != std::string::npos;
  qemu.reconnect_ms = helps_with(help.out, "-chardev socket", "reconnect-ms=");
  qemu.loads_files = helps_with(help.out, "-incoming file:", "");
  return qemu;
}

}  // namespace

std::string kvm_problem(const std::string& device, const std::string& cpuinfo) {
  const Fd kvm(open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm) return fmt::format("{}: {}", device, strerrordesc_np(errno));
  auto info = read_file(cpuinfo, 64 << 20);
  if (!info) return info.error().message;
  for (const std::string& line : split(*info, '\n')) {
    if (line.rfind("flags", 0) != 0) continue;
    const std::string padded = line + " ";
    if (padded.find(" vmx ") != std::string::npos || padded.find(" svm ") != std::string::npos)
      return "";
    break;
  }
  return device + " is there, but the processor shows neither vmx nor svm";
}

Result<std::string> choose_accel(const std::string& wanted) {
  if (wanted == "tcg") return std::string("tcg");
  const std::string problem = kvm_problem();
  if (problem.empty()) return std::string("kvm");
  if (wanted == "kvm") return fail(Code::unavailable, "KVM cannot be used: " + problem);
  return std::string("tcg");
}

Result<Qemu> find_qemu(const RunDir& run) {
  const char* chosen = getenv("PV_QEMU");
  const std::string wanted = chosen && *chosen ? chosen : k_qemu;
  const std::string path = in_path(wanted);
  if (path.empty())
    return fail(
        Code::unavailable,
        fmt::format("QEMU ({}) is not installed; try: apt install qemu-system-x86", wanted));
  const std::string cache = run.path() + "/qemu.json";
  const std::string key = fingerprint(path);
  constexpr size_t k_max_cache = 65536;
  if (auto text = read_file(cache, k_max_cache)) {
    auto known = parse_json(*text);
    if (known && get_string(*known, "key") == key && find(*known, "loads_files"))
      return Qemu{path, get_string(*known, "version"), get_bool(*known, "sandbox"),
                  get_bool(*known, "reconnect_ms"), get_bool(*known, "loads_files")};
  }
  TRY_ASSIGN(Qemu qemu, probe(path));
  const json known = {{"key", key},
                      {"version", qemu.version},
                      {"sandbox", qemu.sandbox},
                      {"reconnect_ms", qemu.reconnect_ms},
                      {"loads_files", qemu.loads_files}};
  // A cache that cannot be written costs time, nothing else.
  static_cast<void>(write_file_atomic(cache, to_line(known) + "\n"));
  return qemu;
}

}  // namespace pv::vm
