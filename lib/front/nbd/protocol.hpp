// SPDX-License-Identifier: MIT
// Numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md) and big-endian access.
#pragma once

#include <cstdint>
#include <cstring>
#include <endian.h>

namespace pv::nbd {

constexpr uint64_t k_magic = 0x4e42444d41474943;         // "NBDMAGIC"
constexpr uint64_t k_option_magic = 0x49484156454f5054;  // "IHAVEOPT"
constexpr uint64_t k_option_reply_magic = 0x0003e889045565a9;
constexpr uint32_t k_request_magic = 0x25609513;
constexpr uint32_t k_simple_reply_magic = 0x67446698;
constexpr uint32_t k_structured_reply_magic = 0x668e33ef;

enum HandshakeFlag : uint16_t { k_fixed_newstyle = 1, k_no_zeroes = 2 };

enum Option : uint32_t {
  k_opt_export_name = 1,
  k_opt_abort = 2,
  k_opt_list = 3,
  k_opt_info = 6,
  k_opt_go = 7,
  k_opt_structured_reply = 8,
  k_opt_list_meta_context = 9,
  k_opt_set_meta_context = 10,
};

enum OptionReply : uint32_t {
  k_rep_ack = 1,
  k_rep_server = 2,
  k_rep_info = 3,
  k_rep_meta_context = 4,
  k_rep_err_unsup = 0x80000001,
  k_rep_err_invalid = 0x80000003,
  k_rep_err_unknown = 0x80000006,
  k_rep_err_too_big = 0x80000009,
};

enum Info : uint16_t {
  k_info_export = 0,
  k_info_name = 1,
  k_info_description = 2,
  k_info_block_size = 3
};

enum TransmissionFlag : uint16_t {
  k_has_flags = 1 << 0,
  k_read_only = 1 << 1,
  k_send_flush = 1 << 2,
  k_send_fua = 1 << 3,
  k_send_trim = 1 << 5,
  k_send_write_zeroes = 1 << 6,
  k_send_df = 1 << 7,
  k_can_multi_conn = 1 << 8,
  k_send_cache = 1 << 10,
};

enum Command : uint16_t {
  k_cmd_read = 0,
  k_cmd_write = 1,
  k_cmd_disc = 2,
  k_cmd_flush = 3,
  k_cmd_trim = 4,
  k_cmd_cache = 5,
  k_cmd_write_zeroes = 6,
  k_cmd_block_status = 7,
};

enum CommandFlag : uint16_t {
  k_cmd_flag_fua = 1 << 0,
  k_cmd_flag_no_hole = 1 << 1,
  k_cmd_flag_df = 1 << 2,
  k_cmd_flag_req_one = 1 << 3,
};

enum ReplyFlag : uint16_t { k_reply_done = 1 };
enum ReplyType : uint16_t {
  k_reply_none = 0,
  k_reply_offset_data = 1,
  k_reply_block_status = 5,
  k_reply_error = 32769,
  k_reply_error_offset = 32770,
};

// Error values of the protocol ("Error values"): the eight, by Linux number but not by chance.
enum WireError : uint32_t {
  k_eperm = 1,
  k_eio = 5,
  k_enomem = 12,
  k_einval = 22,
  k_enospc = 28,
  k_eoverflow = 75,
  k_enotsup = 95,
  k_eshutdown = 108,
};

constexpr uint32_t k_max_request = 32 << 20;  // advertised as the maximum block size
constexpr uint32_t k_max_option = 64 << 10;   // longer option data ends the connection
constexpr uint32_t k_max_name = 4096;         // "Values": strings
constexpr size_t k_request_size = 28;
constexpr size_t k_simple_reply_size = 16;
constexpr size_t k_chunk_header_size = 20;
constexpr size_t k_read_header = k_chunk_header_size + 8;  // in front of a read's data

inline uint16_t get16(const void* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return be16toh(v);
}
inline uint32_t get32(const void* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return be32toh(v);
}
inline uint64_t get64(const void* p) {
  uint64_t v;
  std::memcpy(&v, p, sizeof v);
  return be64toh(v);
}
inline char* put16(char* p, uint16_t v) {
  v = htobe16(v);
  std::memcpy(p, &v, sizeof v);
  return p + sizeof v;
}
inline char* put32(char* p, uint32_t v) {
  v = htobe32(v);
  std::memcpy(p, &v, sizeof v);
  return p + sizeof v;
}
inline char* put64(char* p, uint64_t v) {
  v = htobe64(v);
  std::memcpy(p, &v, sizeof v);
  return p + sizeof v;
}

inline char* chunk_header(char* p, uint16_t flags, uint16_t type, uint64_t cookie,
                          uint32_t length) {
  p = put32(p, k_structured_reply_magic);
  p = put16(p, flags);
  p = put16(p, type);
  p = put64(p, cookie);
  return put32(p, length);
}

}  // namespace pv::nbd
