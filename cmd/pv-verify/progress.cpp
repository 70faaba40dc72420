// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <cstdlib>
#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/file.hpp"
#include "base/units.hpp"

namespace pv::verifycmd {
namespace {

constexpr uint64_t k_every_ns = 100 * k_ns_per_ms;
constexpr uint64_t k_cells = 40;

bool has_terminal() {
  const char* term = getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

}  // namespace

Progress::Progress(uint64_t total)
    : on_terminal_(has_terminal()),
      total_(total),
      start_ns_(system_clock().now_ns()),
      next_ns_(start_ns_ + k_every_ns) {}

Progress::~Progress() {
  clear();
}

void Progress::at(uint64_t done) {
  if (!on_terminal_ || total_ == 0) return;
  const uint64_t now = system_clock().now_ns();
  if (now < next_ns_) return;
  next_ns_ = now + k_every_ns;
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const auto full = static_cast<size_t>(share * k_cells);
  const double seconds = static_cast<double>(now - start_ns_) / static_cast<double>(k_ns_per_s);
  const auto speed = static_cast<uint64_t>(static_cast<double>(done) / seconds);
  drawn_ = true;
  static_cast<void>(write_all(
      STDERR_FILENO, fmt::format("\r[{:<{}}] {:3.0f} %  {}/s\x1b[K", std::string(full, '#'),
                                 k_cells, 100 * share, format_size(speed))));
}

void Progress::clear() {
  if (drawn_) static_cast<void>(write_all(STDERR_FILENO, "\r\x1b[K"));
  drawn_ = false;
}

}  // namespace pv::verifycmd
