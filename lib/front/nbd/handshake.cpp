// SPDX-License-Identifier: MIT
#include "front/nbd/handshake.hpp"

#include <algorithm>

#include "base/units.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr std::string_view k_context = "base:allocation";

std::string be16(uint16_t v) {
  std::string s(2, '\0');
  put16(s.data(), v);
  return s;
}
std::string be32(uint32_t v) {
  std::string s(4, '\0');
  put32(s.data(), v);
  return s;
}
std::string be64(uint64_t v) {
  std::string s(8, '\0');
  put64(s.data(), v);
  return s;
}

// Reads length-prefixed pieces off the front of option data; every read is checked.
class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}
  bool u16(uint16_t& v) {
    if (data_.size() < 2) return false;
    v = get16(data_.data());
    data_.remove_prefix(2);
    return true;
  }
  bool u32(uint32_t& v) {
    if (data_.size() < 4) return false;
    v = get32(data_.data());
    data_.remove_prefix(4);
    return true;
  }
  bool string(std::string_view& s) {
    uint32_t length = 0;
    if (!u32(length) || length > data_.size() || length > k_max_name) return false;
    s = data_.substr(0, length);
    data_.remove_prefix(length);
    return true;
  }
  size_t left() const { return data_.size(); }

 private:
  std::string_view data_;
};

}  // namespace

uint16_t transmission_flags(const blk::Geometry& geometry, bool structured) {
  unsigned flags = k_has_flags | k_send_flush | k_can_multi_conn | k_send_cache | k_send_trim |
                   k_send_write_zeroes;
  if (structured) flags |= k_send_df;
  if (geometry.read_only) flags |= k_read_only;
  if (geometry.fua) flags |= k_send_fua;
  if (geometry.discard == blk::DiscardBehaviour::ignored)
    flags &= ~static_cast<unsigned>(k_send_trim);
  return static_cast<uint16_t>(flags);
}

Handshake::Handshake(const Export& exported) : export_(exported) {
  output_ = be64(k_magic) + be64(k_option_magic) + be16(k_fixed_newstyle | k_no_zeroes);
}

size_t Handshake::feed(std::string_view bytes) {
  size_t used = 0;
  while (state_ == State::negotiating) {
    const std::string_view rest = bytes.substr(used);
    const size_t n = flags_seen_ ? option(rest) : client_flags(rest);
    if (n == 0) break;
    used += n;
  }
  return used;
}

size_t Handshake::client_flags(std::string_view bytes) {
  if (bytes.size() < 4) return 0;
  const uint32_t flags = get32(bytes.data());
  if ((flags & ~3U) != 0) state_ = State::closed;
  fixed_ = (flags & k_fixed_newstyle) != 0;
  no_zeroes_ = (flags & k_no_zeroes) != 0;
  flags_seen_ = true;
  return 4;
}

size_t Handshake::option(std::string_view bytes) {
  constexpr size_t k_header = 16;
  if (bytes.size() < k_header) return 0;
  const uint32_t option = get32(bytes.data() + 8);
  const uint32_t length = get32(bytes.data() + 12);
  if (get64(bytes.data()) != k_option_magic || length > k_max_option) {
    state_ = State::closed;
    return k_header;
  }
  if (bytes.size() - k_header < length) return 0;
  handle(option, bytes.substr(k_header, length));
  return k_header + length;
}

void Handshake::handle(uint32_t option, std::string_view data) {
  // A client without the fixed newstyle takes no answer to any other option.
  if (stop_ == Stop::first_option || (!fixed_ && option != k_opt_export_name)) {
    state_ = State::closed;
    return;
  }
  switch (option) {
    case k_opt_export_name:
      return export_name(data);
    case k_opt_abort:
      reply(option, k_rep_ack);
      state_ = State::closed;
      return;
    case k_opt_list:
      if (!data.empty()) return reply(option, k_rep_err_invalid);
      reply(option, k_rep_server,
            be32(static_cast<uint32_t>(export_.name.size())) + export_.name + export_.description);
      return reply(option, k_rep_ack);
    case k_opt_info:
    case k_opt_go:
      return info_or_go(option, data);
    case k_opt_structured_reply:
      if (!data.empty()) return reply(option, k_rep_err_invalid);
      structured_ = true;
      return reply(option, k_rep_ack);
    case k_opt_list_meta_context:
    case k_opt_set_meta_context:
      return meta_context(option, data);
    default:
      return reply(option, k_rep_err_unsup, "not supported");  // STARTTLS among them: no TLS here
  }
}

// NAME or NAME@HOST; an export's own name holds no '@'.
bool Handshake::known_name(std::string_view name) const {
  const size_t at = name.find('@');
  const std::string_view plain = name.substr(0, at);
  if (!plain.empty() && plain != export_.name) return false;
  return at == std::string_view::npos || check_name("host", name.substr(at + 1)).has_value();
}

void Handshake::enter(std::string_view name) {
  if (const size_t at = name.find('@'); at != std::string_view::npos) host_ = name.substr(at + 1);
  state_ = State::transmission;
}

void Handshake::export_name(std::string_view data) {
  if (!known_name(data) || stop_ == Stop::entry) {  // this option has no way to say no
    state_ = State::closed;
    return;
  }
  output_ += be64(export_.geometry.size) + be16(offered());
  if (!no_zeroes_) output_.append(124, '\0');
  enter(data);
}

void Handshake::info_or_go(uint32_t option, std::string_view data) {
  Reader reader(data);
  std::string_view name;
  uint16_t count = 0;
  if (!reader.string(name) || !reader.u16(count) || reader.left() != count * 2U)
    return reply(option, k_rep_err_invalid, "malformed request");
  if (!known_name(name)) return reply(option, k_rep_err_unknown, "no such export");
  const blk::Geometry& g = export_.geometry;
  reply_info(option, k_info_export, be64(g.size) + be16(offered()));
  for (uint16_t i = 0, wanted = 0; i < count && reader.u16(wanted); ++i) {
    if (wanted == k_info_name) reply_info(option, k_info_name, export_.name);
    if (wanted == k_info_description) reply_info(option, k_info_description, export_.description);
  }
  // Sent unasked: a client that ignores it may still send smaller requests, and is told EINVAL.
  const uint32_t preferred = std::max<uint32_t>(g.physical_sector_size, 4096);
  reply_info(option, k_info_block_size,
             be32(g.sector_size) + be32(preferred) + be32(k_max_request));
  if (option == k_opt_go && stop_ == Stop::entry) {
    state_ = State::closed;
    return;
  }
  reply(option, k_rep_ack);
  if (option == k_opt_go) enter(name);
}

void Handshake::meta_context(uint32_t option, std::string_view data) {
  Reader reader(data);
  std::string_view name;
  uint32_t count = 0;
  if (option == k_opt_set_meta_context) base_allocation_ = false;  // also when it fails
  if (!structured_ || !reader.string(name) || !reader.u32(count))
    return reply(option, k_rep_err_invalid, "needs structured replies and a name");
  if (!known_name(name)) return reply(option, k_rep_err_unknown, "no such export");
  bool wanted = count == 0 && option == k_opt_list_meta_context;
  for (uint32_t i = 0; i < count; ++i) {
    std::string_view query;
    if (!reader.string(query)) return reply(option, k_rep_err_invalid, "malformed query");
    wanted =
        wanted || query == k_context || (option == k_opt_list_meta_context && query == "base:");
  }
  if (reader.left() != 0) return reply(option, k_rep_err_invalid, "trailing data");
  if (option == k_opt_set_meta_context) base_allocation_ = wanted;
  if (wanted)
    reply(
        option, k_rep_meta_context,
        be32(option == k_opt_set_meta_context ? k_base_allocation_id : 0) + std::string(k_context));
  reply(option, k_rep_ack);
}

void Handshake::reply(uint32_t option, uint32_t type, std::string_view data) {
  output_ += be64(k_option_reply_magic) + be32(option) + be32(type) +
             be32(static_cast<uint32_t>(data.size()));
  output_ += data;
}

void Handshake::reply_info(uint32_t option, uint16_t type, std::string_view data) {
  reply(option, k_rep_info, be16(type) + std::string(data));
}

}  // namespace pv::nbd
