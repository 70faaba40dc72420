// SPDX-License-Identifier: MIT
// Encryption, sector by sector, as dm-crypt does it with aes-xts-plain64: what lies below is
// cipher text. The data of a write is encrypted into a buffer of ours, a read is decrypted where it
// lands. A sector that was never written, or was discarded, reads as garbage.
#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/segments.hpp"
#include "blk/xts.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_crypt_params[] = {
    {"key-file", "PATH", "64 bytes, or 128 hexadecimal digits", ParamSpec::path},
    {"discard", "on|off", "whether discards go below (default on)"},
};
constexpr size_t k_chunk = 1 << 20;  // a longer write goes below in pieces
constexpr size_t k_page = 4096;
constexpr uint64_t k_tweak_unit = 512;  // plain64 counts these, whatever the sector size

class Crypt final : public Forward {
 public:
  Crypt(std::unique_ptr<Disk> below, const Env& env, std::unique_ptr<Xts> xts, bool discards)
      : Forward(std::move(below)), timers_(env.timers), xts_(std::move(xts)), discards_(discards) {
    take_geometry();
  }

  const Geometry& geometry() const override { return geometry_; }

  Result<> resize(uint64_t size) override {
    TRY(lower().resize(size));
    take_geometry();
    return {};
  }

  void submit(Request& request) override {
    switch (request.op) {
      case Op::read:
      case Op::map:
        return look(request);
      case Op::write:
      case Op::zero:
        return change(request);
      case Op::discard:
        return discards_ ? lower().submit(request) : request.done(request, 0);
      case Op::flush:
      case Op::cache:
        return lower().submit(request);
    }
  }

  void inspect(json& out) const override {
    out["crypt"] = {{"cipher", "aes-xts-plain64"}, {"key_bits", 256}};
    lower().inspect(out);
  }

 private:
  struct FreeMemory {
    void operator()(char* memory) const { std::free(memory); }
  };
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Crypt* layer = nullptr;
    std::unique_ptr<char, FreeMemory> buffer;  // cipher text; one sector of a read that is split
    size_t room = 0;
    iovec piece{};
    uint64_t sent = 0;  // bytes of a change that are below
    std::vector<Extent> extents;
  };

  void take_geometry() {
    geometry_ = lower().geometry();
    if (geometry_.discard == DiscardBehaviour::zeroes)
      geometry_.discard = DiscardBehaviour::unspecified;
    if (!discards_) geometry_.discard = DiscardBehaviour::ignored;
  }

  Flight* follow(Request& request) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    flight->sent = 0;
    return flight;
  }

  static bool make_room(Flight& flight, size_t bytes) {
    if (flight.room >= bytes) return true;
    const size_t pages = (bytes + k_page - 1) / k_page * k_page;
    flight.buffer.reset(static_cast<char*>(std::aligned_alloc(k_page, pages)));
    flight.room = flight.buffer ? pages : 0;
    return flight.room != 0;
  }

  void look(Request& request) {
    Flight* flight = follow(request);
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->looked(done, error);
    });
    flight->child.loan = nullptr;
    flight->child.wire = nullptr;
    flight->extents.clear();
    if (request.op == Op::map) flight->child.extents = &flight->extents;
    lower().submit(flight->child);
  }

  void looked(Flight& flight, int error) {
    if (error == 0 && flight.parent->op == Op::read) error = decrypt(flight);
    if (error == 0 && flight.parent->op == Op::map) {
      // Whatever is below, it is not what it looks like from here: all of it is data.
      uint64_t covered = 0;
      for (const Extent& extent : flight.extents) covered += extent.length;
      flight.parent->extents->push_back({covered, 0});
    }
    finish(flight, error);
  }

  int decrypt(Flight& flight) {
    const Request& request = *flight.parent;
    const size_t sector = geometry_.sector_size;
    uint64_t at = 0;
    for (int i = 0; i < request.segments; ++i) {
      auto* data = static_cast<char*>(request.data[i].iov_base);
      uint64_t left = request.data[i].iov_len;
      // The part of a sector that began in an earlier piece has been dealt with there.
      const uint64_t skip = std::min<uint64_t>(left, (sector - at % sector) % sector);
      at += skip;
      data += skip;
      left -= skip;
      while (left != 0) {
        const bool whole = left >= sector;
        if (!(whole ? unseal(request, at, data) : unseal_split(flight, at))) return EIO;
        const uint64_t n = std::min<uint64_t>(left, sector);
        at += n;
        data += n;
        left -= n;
      }
    }
    return 0;
  }

  bool unseal(const Request& request, uint64_t at, char* data) {
    return xts_->decrypt((request.offset + at) / k_tweak_unit, data, data, geometry_.sector_size);
  }

  bool unseal_split(Flight& flight, uint64_t at) {
    if (!make_room(flight, geometry_.sector_size)) return false;
    gather(*flight.parent, at, flight.buffer.get(), geometry_.sector_size);
    if (!unseal(*flight.parent, at, flight.buffer.get())) return false;
    scatter(*flight.parent, at, flight.buffer.get(), geometry_.sector_size);
    return true;
  }

  void change(Request& request) {
    Flight* flight = follow(request);
    if (!make_room(*flight, std::min<uint64_t>(request.length, k_chunk)))
      return finish(*flight, ENOMEM);
    send(*flight);
  }

  // Encrypts the next piece of a write, or of as many zeroes, and sends it.
  void send(Flight& flight) {
    const Request& parent = *flight.parent;
    const uint64_t length = std::min<uint64_t>(parent.length - flight.sent, k_chunk);
    const size_t sector = geometry_.sector_size;
    char* buffer = flight.buffer.get();
    if (parent.op == Op::zero)
      std::memset(buffer, 0, length);
    else
      gather(parent, flight.sent, buffer, length);
    for (uint64_t at = 0; at < length; at += sector) {
      const uint64_t unit = (parent.offset + flight.sent + at) / k_tweak_unit;
      if (!xts_->encrypt(unit, buffer + at, buffer + at, sector)) return finish(flight, EIO);
    }
    make_child(flight.child, parent, &flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->sent(done, error);
    });
    flight.child.op = Op::write;
    flight.child.wire = nullptr;
    flight.child.flags &= ~static_cast<uint32_t>(k_no_unmap);
    flight.child.offset += flight.sent;
    flight.child.length = length;
    flight.piece = {buffer, length};
    flight.child.data = &flight.piece;
    flight.child.segments = 1;
    lower().submit(flight.child);
  }

  void sent(Flight& flight, int error) {
    flight.sent += flight.child.length;
    if (error != 0 || flight.sent == flight.parent->length) return finish(flight, error);
    timers_.after(0, [this, &flight] { send(flight); });  // others get their turn in between
  }

  void finish(Flight& flight, int error) {
    Request* parent = flight.parent;
    flights_.give(&flight);
    parent->done(*parent, error);
  }

  Timers& timers_;
  std::unique_ptr<Xts> xts_;
  bool discards_;
  Geometry geometry_;
  Pool<Flight> flights_;
};

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int letter = c | 0x20;
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

// 64 bytes as they are, or 128 digits and perhaps an end of line.
Result<> parse_key(const std::string& path, std::string& text, uint8_t (&key)[k_xts_key]) {
  size_t length = text.size();
  if (length == k_xts_key) {
    std::memcpy(key, text.data(), k_xts_key);
    return {};
  }
  if (length == 2 * k_xts_key + 1 && text.back() == '\n') --length;
  bool valid = length == 2 * k_xts_key;
  for (size_t i = 0; valid && i < k_xts_key; ++i) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    key[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (valid) return {};
  return fail(Code::invalid,
              fmt::format("layer 'crypt': the key file {} has {} bytes{}; a key is "
                          "64 bytes or 128 hexadecimal digits",
                          path, text.size(), length == 2 * k_xts_key ? " that are no digits" : ""));
}

Result<std::unique_ptr<Xts>> cipher_from(const std::string& path) {
  constexpr size_t k_max_file = 4096;
  auto text = read_file(path, k_max_file);
  if (!text)
    return fail(Code::invalid,
                fmt::format("layer 'crypt': key-file: {}", std::move(text).error().message));
  uint8_t key[k_xts_key] = {};
  const auto parsed = parse_key(path, *text, key);
  auto cipher = parsed ? Xts::create(key) : tl::unexpected<Error>(parsed.error());
  explicit_bzero(key, sizeof key);
  explicit_bzero(text->data(), text->size());
  if (!cipher && parsed) cipher.error().message.insert(0, "layer 'crypt': ");
  return cipher;
}

}  // namespace

std::span<const ParamSpec> crypt_params() {
  return k_crypt_params;
}

Result<std::unique_ptr<Disk>> make_crypt(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env) {
  const auto path = spec.params.find("key-file");
  if (path == spec.params.end())
    return fail(Code::usage, "layer 'crypt' needs a key: key-file=PATH");
  const auto given = spec.params.find("discard");
  const std::string discard = given == spec.params.end() ? "on" : given->second;
  if (discard != "on" && discard != "off")
    return fail(Code::usage, fmt::format("layer 'crypt': discard={} is not on or off", discard));
  TRY_ASSIGN(std::unique_ptr<Xts> xts, cipher_from(path->second));
  return std::make_unique<Crypt>(std::move(lower), env, std::move(xts), discard == "on");
}

}  // namespace pv::blk
