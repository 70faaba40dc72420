// SPDX-License-Identifier: MIT
#include "blk/line_journal.hpp"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_file = 1 << 30;
constexpr int k_max_layers = 256;

}  // namespace

LineJournal::LineJournal(std::string dir, std::string name, uint64_t bytes)
    : dir_(std::move(dir)), name_(std::move(name)), segment_bytes_(bytes / k_segments) {}

LineJournal::~LineJournal() {
  for (const Segment& segment : segments_)
    if (!dir_.empty()) unlink(segment.path.c_str());
}

// A stack may have several such layers: the first name that is free is ours.
bool LineJournal::open_file(Segment& segment) {
  const uint64_t number = segment_number_++;
  if (dir_.empty()) {
    segment.file.reset(memfd_create(name_.c_str(), MFD_CLOEXEC));
    segment.path = fmt::format("/proc/{}/fd/{}", getpid(), segment.file.get());
    return static_cast<bool>(segment.file);
  }
  for (int layer = 0; layer < k_max_layers; ++layer) {
    const std::string prefix =
        prefix_.empty() ? fmt::format("{}/{}-{}", dir_, name_, layer) : prefix_;
    segment.path = fmt::format("{}.{}.jsonl", prefix, number);
    segment.file.reset(open(segment.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (segment.file) prefix_ = prefix;
    if (segment.file || !prefix_.empty() || errno != EEXIST) break;
  }
  return static_cast<bool>(segment.file);
}

void LineJournal::adopt(const std::string& prefix, uint64_t last) {
  continue_after(last);
  if (prefix.empty()) return;
  prefix_ = prefix;
  std::map<uint64_t, std::string> files;  // by number
  const std::string folder = prefix.substr(0, prefix.rfind('/'));
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string path = entry.path();
    if (path.rfind(prefix + ".", 0) == 0)
      files[std::strtoull(path.c_str() + prefix.size() + 1, nullptr, 10)] = path;
  }
  for (const auto& [number, path] : files) {
    segment_number_ = number + 1;
    const std::string text = read_file(path, k_max_file).value_or("");
    const size_t whole = text.rfind('\n') + 1;  // 0 where there is none
    Segment segment;
    segment.file.reset(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!segment.file || whole == 0) continue;
    segment.path = path;
    segment.bytes = whole;
    segment.first = std::strtoull(text.c_str() + 5, nullptr, 10);  // {"n":123,…
    if (ftruncate(segment.file.get(), static_cast<off_t>(whole)) < 0) continue;
    lseek(segment.file.get(), 0, SEEK_END);
    segments_.push_back(std::move(segment));
  }
}

bool LineJournal::begin_segment() {
  Segment segment;
  if (!open_file(segment)) {
    error_ = errno;
    return false;
  }
  segment.first = buffered_from_;
  segments_.push_back(std::move(segment));
  while (segments_.size() > k_segments) drop_oldest();
  return true;
}

void LineJournal::drop_oldest() {
  if (!dir_.empty()) unlink(segments_.front().path.c_str());
  segments_.pop_front();
}

void LineJournal::write_out() {
  if (buffer_.empty()) return;
  const bool room = !segments_.empty() && segments_.back().bytes < segment_bytes_;
  if (room || begin_segment()) {
    Segment& segment = segments_.back();
    const auto written = write_all(segment.file.get(), buffer_);
    if (written) {
      segment.bytes += buffer_.size();
    } else {
      // A line that is cut must not stay: what follows would be lost with it.
      error_ = written.error().sys_errno;
      lost_ += last_ - buffered_from_ + 1;
      if (ftruncate(segment.file.get(), static_cast<off_t>(segment.bytes)) == 0)
        lseek(segment.file.get(), static_cast<off_t>(segment.bytes), SEEK_SET);
    }
  } else {
    lost_ += last_ - buffered_from_ + 1;
  }
  buffer_.clear();
  buffered_from_ = last_ + 1;
}

json LineJournal::where() {
  write_out();
  json files = json::array();
  for (size_t i = 0; i < segments_.size(); ++i) {
    const uint64_t end = i + 1 < segments_.size() ? segments_[i + 1].first : last_ + 1;
    files.push_back(
        {{"path", segments_[i].path}, {"first", segments_[i].first}, {"last", end - 1}});
  }
  const uint64_t gone = segments_.empty() ? before_ : segments_.front().first - 1;
  json out = {{"files", files}, {"last", last_}, {"dropped", gone + lost_}};
  if (error_ != 0) out["write_error"] = errno_name(error_);
  return out;
}

Result<json> read_journal(const json& where, uint64_t since, size_t max) {
  json events = json::array();
  for (const json& file : where.at("files")) {
    if (get_u64(file, "last") <= since) continue;
    auto text = read_file(get_string(file, "path"), k_max_file);
    if (!text) continue;  // the oldest went while we were reading
    const uint64_t last = get_u64(file, "last");
    for (size_t at = 0; at < text->size();) {
      const size_t end = text->find('\n', at);
      if (end == std::string::npos) break;
      const std::string_view line(text->data() + at, end - at);
      at = end + 1;
      // {"n":123,…: only what is wanted is parsed.
      const uint64_t number = line.size() > 5 ? std::strtoull(line.data() + 5, nullptr, 10) : 0;
      if (number <= since || number > last) continue;
      TRY_ASSIGN(json event, parse_json(line));
      events.push_back(std::move(event));
      if (events.size() == max) return events;
    }
  }
  return events;
}

}  // namespace pv::blk
