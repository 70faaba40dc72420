// SPDX-License-Identifier: MIT
#include "blk/state.hpp"

#include <cstring>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

#define XXH_INLINE_ALL
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <xxhash.h>

namespace pv::blk {
namespace {

constexpr std::string_view k_magic = "PVSTATE\x01";
constexpr size_t k_buffer = 1 << 20;
constexpr size_t k_max_sections = 256;

struct Header {
  uint32_t kind;
  uint32_t length;
  uint64_t a, b;
  uint64_t checksum;  // of the fields before it, and of the bytes
};

uint64_t checksum_of(const Header& header, std::string_view bytes) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(),
                              XXH3_64bits(&header, offsetof(Header, checksum)));
}

tl::unexpected<Error> corrupt(std::string_view what) {
  return fail(Code::snapshot_corrupt, fmt::format("the saved state of the layers {}", what));
}

}  // namespace

tl::unexpected<Error> bad_state(const char* layer, std::string_view what) {
  return fail(Code::snapshot_corrupt,
              fmt::format("the saved state of layer '{}' is damaged: {}", layer, what));
}

// --- out --------------------------------------------------------------------------------------

StateOut::StateOut(int records) : fd_(records) {}
StateOut::~StateOut() = default;

void StateOut::section(const char* layer, json state) {
  if (!sections_) sections_ = std::make_unique<json>(json::array());
  sections_->push_back({{"layer", layer}, {"state", std::move(state)}, {"records", 0}});
}

Result<> StateOut::record(const StateRecord& record) {
  Header header{record.kind, static_cast<uint32_t>(record.bytes.size()), record.a, record.b, 0};
  header.checksum = checksum_of(header, record.bytes);
  if (written_ == 0 && buffer_.empty()) buffer_ = k_magic;
  buffer_.append(reinterpret_cast<const char*>(&header), sizeof header);
  buffer_ += record.bytes;
  json& count = sections_->back()["records"];
  count = count.get<uint64_t>() + 1;
  if (buffer_.size() < k_buffer) return {};
  written_ += buffer_.size();
  TRY(write_all(fd_, buffer_));
  buffer_.clear();
  return {};
}

Result<json> StateOut::finish() {
  if (written_ == 0 && buffer_.empty()) buffer_ = k_magic;
  TRY(write_all(fd_, buffer_));
  written_ += buffer_.size();
  buffer_.clear();
  return sections_ ? std::move(*sections_) : json::array();
}

// --- in ---------------------------------------------------------------------------------------

StateIn::StateIn(StateIn&&) noexcept = default;
StateIn& StateIn::operator=(StateIn&&) noexcept = default;
StateIn::~StateIn() = default;

Result<StateIn> StateIn::open(const json& sections, Fd records) {
  if (!sections.is_array() || sections.size() > k_max_sections) return corrupt("is no list");
  StateIn in;
  in.sections_ = std::make_unique<json>(sections);
  in.fd_ = std::move(records);
  char magic[k_magic.size()];
  TRY(in.take(magic, sizeof magic));
  if (std::string_view(magic, sizeof magic) != k_magic) return corrupt("is of another kind");
  return in;
}

Result<> StateIn::take(char* to, size_t count) {
  while (count != 0) {
    if (used_ == buffer_.size()) {
      buffer_.resize(k_buffer);
      const ssize_t n = read(fd_.get(), buffer_.data(), buffer_.size());
      if (n < 0 && errno != EINTR) return fail_errno("cannot read the state of the layers", errno);
      if (n == 0) return corrupt("is cut short");
      buffer_.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
      used_ = 0;
    }
    const size_t n = std::min(count, buffer_.size() - used_);
    std::memcpy(to, buffer_.data() + used_, n);
    used_ += n;
    to += n;
    count -= n;
  }
  return {};
}

Result<const json*> StateIn::section(const char* layer) {
  if (left_ != 0) return corrupt("has records that no layer has asked for");
  if (next_ == sections_->size()) return corrupt(fmt::format("has none for '{}'", layer));
  const json& row = (*sections_)[next_++];
  const json* state = find(row, "state");
  if (get_string(row, "layer") != layer || state == nullptr || !state->is_object())
    return corrupt(fmt::format("has none for '{}' where it should be", layer));
  left_ = get_u64(row, "records");
  return state;
}

Result<StateRecord> StateIn::record() {
  if (left_ == 0) return corrupt("has too few records");
  --left_;
  Header header;
  TRY(take(reinterpret_cast<char*>(&header), sizeof header));
  if (header.length > k_max_state_record) return corrupt("has a record that is too long");
  StateRecord record{header.kind, header.a, header.b, std::string(header.length, '\0')};
  TRY(take(record.bytes.data(), record.bytes.size()));
  if (header.checksum != checksum_of(header, record.bytes))
    return corrupt("has a record whose checksum is wrong");
  return record;
}

Result<> StateIn::end() {
  char more;
  const bool rest = used_ != buffer_.size() || read(fd_.get(), &more, 1) != 0;
  if (left_ != 0 || next_ != sections_->size() || rest) return corrupt("has too much in it");
  return {};
}

}  // namespace pv::blk
