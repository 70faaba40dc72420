// SPDX-License-Identifier: MIT
// XTS-AES-256 through libcrypto, which is loaded when the first cipher is made: linking it would
// cost every short command milliseconds. A cipher belongs to one thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.hpp"

struct evp_cipher_ctx_st;

namespace pv::blk {

constexpr size_t k_xts_key = 64;  // bytes: the data key, then the tweak key

class Xts {
 public:
  // Code::unavailable without libcrypto, Code::invalid for a key that XTS must not use.
  static Result<std::unique_ptr<Xts>> create(std::span<const uint8_t, k_xts_key> key);
  ~Xts();
  Xts(const Xts&) = delete;
  Xts& operator=(const Xts&) = delete;

  // One data unit, a multiple of 16 bytes; `in` may be `out`. False: libcrypto refused.
  bool encrypt(uint64_t unit, const char* in, char* out, size_t length) {
    return run(contexts_[1], unit, in, out, length);
  }
  bool decrypt(uint64_t unit, const char* in, char* out, size_t length) {
    return run(contexts_[0], unit, in, out, length);
  }

 private:
  Xts() = default;
  static bool run(evp_cipher_ctx_st* context, uint64_t unit, const char* in, char* out,
                  size_t length);
  std::array<evp_cipher_ctx_st*, 2> contexts_{};  // decrypts, encrypts
};

}  // namespace pv::blk
