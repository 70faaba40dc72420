// SPDX-License-Identifier: MIT
#include "vm/device_state.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "vm/argv.hpp"

namespace pv::vm {
namespace {

constexpr uint32_t k_magic = 0x5145564d;  // "QEVM"
constexpr uint32_t k_version = 3;
struct Section {
  enum : uint8_t { eof = 0, start = 1, part = 2, end = 3, full = 4, description = 6, command = 8 };
};
constexpr uint8_t k_configuration = 7, k_footer = 0x7e;
// Flags of a page, in the low bits of its address (RAM_SAVE_FLAG_*).
struct Page {
  enum : uint64_t { zero = 2, mem_size = 4, page = 8, eos = 16, go_on = 32 };
};
constexpr uint64_t k_page = 4096;

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  uint64_t number(size_t size) {
    uint64_t value = 0;
    for (const char c : take(size)) value = value << 8 | static_cast<unsigned char>(c);
    return value;
  }
  std::string_view take(size_t size) {
    if (size > bytes_.size() - at_) {
      ok_ = false;
      at_ = bytes_.size();
      return {};
    }
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  std::string_view word() { return take(number(1)); }
  uint8_t peek() const { return at_ < bytes_.size() ? static_cast<uint8_t>(bytes_[at_]) : 0; }
  size_t at() const { return at_; }
  bool ok() const { return ok_; }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

tl::unexpected<Error> strange(const char* what) {
  return fail(Code::qmp, fmt::format("QEMU's state is not as expected: {}", what));
}

// The list of memory blocks: name, length, and with x-ignore-shared the address.
void skip_blocks(Reader& in, uint64_t total) {
  while (in.ok() && total > 0) {
    in.word();
    const uint64_t length = in.number(8);
    in.number(8);
    total -= std::min(total, length);
  }
}

// What a section of "ram" holds, up to its end mark.
Result<> skip_ram(Reader& in) {
  while (in.ok()) {
    const uint64_t head = in.number(8);
    const uint64_t flags = head % k_page;
    if (flags == Page::eos && in.ok()) return {};
    if (flags == Page::mem_size) {
      skip_blocks(in, head - flags);
      continue;
    }
    // With pages of the guest's own memory it would load what that was when the front was taken.
    if ((flags & Page::go_on) == 0 && in.word() == k_ram_object)
      return fail(Code::unsupported,
                  "this QEMU puts the guest's memory among the state of its devices, so that no "
                  "snapshot can be taken with it (see pv-vm doctor)");
    const uint64_t kind = flags & ~uint64_t{Page::go_on};
    if (kind == Page::zero)
      in.number(1);
    else if (kind == Page::page)
      in.take(k_page);
    else
      break;
  }
  return strange("its memory is cut off");
}

bool skip_footer(Reader& in) {
  if (in.peek() != k_footer) return true;
  in.take(1 + sizeof(uint32_t));
  return in.ok();
}

}  // namespace

Result<size_t> end_of_ram(std::string_view stream) {
  Reader in(stream);
  if (in.number(4) != k_magic || in.number(4) != k_version) return strange("another magic number");
  // Behind the configuration, whose subsections say no length, the first section is that of "ram".
  if (in.peek() == k_configuration) {
    static constexpr std::string_view k_ram("\x03ram", 4);
    const size_t name = stream.find(k_ram, in.at());
    constexpr size_t k_head = 1 + sizeof(uint32_t);  // type and number
    if (name == std::string_view::npos || name < in.at() + k_head)
      return strange("there is no memory in it");
    in.take(name - k_head - in.at());
  }
  for (bool first = true; in.ok(); first = false) {
    const uint64_t type = in.number(1);
    if (type == Section::command && !first) {  // since 10.0, where the CPUs have been stopped
      in.number(2);
      in.take(in.number(2));
      continue;
    }
    if (type != Section::start && type != Section::part && type != Section::end)
      return strange("a section of another kind in the midst of its memory");
    if ((type == Section::start) != first) return strange("its memory begins in the wrong place");
    in.number(4);
    if (type == Section::start) {
      if (in.word() != "ram") return strange("it begins with something else than memory");
      in.number(4);  // instance
      in.number(4);  // version
    }
    TRY(skip_ram(in));
    if (!skip_footer(in)) return strange("its memory is cut off");
    if (type == Section::end) return in.at();
  }
  return strange("its memory has no end");
}

Result<std::string> join_device_state(std::string_view front, std::string_view devices) {
  constexpr size_t k_head = 2 * sizeof(uint32_t);
  Reader in(devices);
  if (in.number(4) != k_magic || in.number(4) != k_version) return strange("another magic number");
  if (in.peek() != Section::full) return strange("no device comes first");
  if (devices.back() != Section::eof) return strange("it has no end");
  std::string stream(front);
  stream += devices.substr(k_head);
  // An empty description, which QEMU looks for and does not need.
  static constexpr char k_description[] = {Section::description, 0, 0, 0, 2, '{', '}'};
  stream.append(k_description, sizeof k_description);
  return stream;
}

}  // namespace pv::vm
