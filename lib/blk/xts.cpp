// SPDX-License-Identifier: MIT
#include "blk/xts.hpp"

#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <openssl/evp.h>

namespace pv::blk {
namespace {

#define PV_CRYPTO_FUNCTIONS(X) \
  X(EVP_CIPHER_CTX_new)        \
  X(EVP_CIPHER_CTX_free)       \
  X(EVP_aes_256_xts)           \
  X(EVP_CipherInit_ex)         \
  X(EVP_CipherUpdate)

struct LibCrypto {
#define PV_MEMBER(name) decltype(&::name) name = nullptr;
  PV_CRYPTO_FUNCTIONS(PV_MEMBER)
#undef PV_MEMBER
};

LibCrypto crypto;  // one for the process, filled once

Result<> load_libcrypto() {
  if (crypto.EVP_CipherUpdate != nullptr) return {};
  void* handle = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return fail(Code::unavailable, "libcrypto is not installed (Debian package libssl3)");
#define PV_RESOLVE(name)                                                       \
  crypto.name = reinterpret_cast<decltype(crypto.name)>(dlsym(handle, #name)); \
  if (crypto.name == nullptr) return fail(Code::unavailable, "libcrypto lacks " #name "()");
  PV_CRYPTO_FUNCTIONS(PV_RESOLVE)
#undef PV_RESOLVE
  return {};
}

}  // namespace

Result<std::unique_ptr<Xts>> Xts::create(std::span<const uint8_t, k_xts_key> key) {
  if (std::memcmp(key.data(), key.data() + k_xts_key / 2, k_xts_key / 2) == 0)
    return fail(Code::invalid, "the two halves of an XTS key must differ");
  TRY(load_libcrypto());
  std::unique_ptr<Xts> xts(new Xts);
  for (const int encrypts : {0, 1}) {
    evp_cipher_ctx_st*& context = xts->contexts_[static_cast<size_t>(encrypts)];
    context = crypto.EVP_CIPHER_CTX_new();
    if (context == nullptr || crypto.EVP_CipherInit_ex(context, crypto.EVP_aes_256_xts(), nullptr,
                                                       key.data(), nullptr, encrypts) != 1)
      return fail(Code::unavailable, "libcrypto refuses XTS-AES-256");
  }
  return xts;
}

Xts::~Xts() {
  for (evp_cipher_ctx_st* context : contexts_)
    if (context != nullptr) crypto.EVP_CIPHER_CTX_free(context);  // wipes the key as well
}

bool Xts::run(evp_cipher_ctx_st* context, uint64_t unit, const char* in, char* out, size_t length) {
  uint8_t tweak[16] = {};
  for (int i = 0; i < 8; ++i) tweak[i] = static_cast<uint8_t>(unit >> (8 * i));
  int n = 0;
  return crypto.EVP_CipherInit_ex(context, nullptr, nullptr, nullptr, tweak, -1) == 1 &&
         crypto.EVP_CipherUpdate(context, reinterpret_cast<uint8_t*>(out), &n,
                                 reinterpret_cast<const uint8_t*>(in),
                                 static_cast<int>(length)) == 1 &&
         static_cast<size_t>(n) == length;
}

}  // namespace pv::blk
