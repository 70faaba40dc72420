// SPDX-License-Identifier: MIT
// QEMU's stream as far as a snapshot reads it: where its memory ends, and what is put together. If
// this failed, snapshots of restored VMs would not load, or a damaged state would be read past its
// end.

#include "../catch.hpp"
#include "vm/device_state.hpp"

using namespace pv;

namespace {

std::string be(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}
std::string word(const std::string& text) {
  return be(text.size(), 1) + text;
}
std::string head() {
  return be(0x5145564d, 4) + be(3, 4);
}
std::string footer(uint32_t id) {
  return be(0x7e, 1) + be(id, 4);
}
const std::string k_eos = be(0x10, 8);

// A machine type, then memory: one block's list, a zero page, a page, and one more of the block.
std::string state_front(bool configuration, const std::string& block = "pc.bios") {
  std::string s = head();
  if (configuration) s += be(7, 1) + be(3, 4) + "q35";
  s += be(1, 1) + be(2, 4) + word("ram") + be(0, 4) + be(4, 4);
  s += be(8192 | 4, 8) + word(block) + be(8192, 8) + be(0xfffc0000, 8) + k_eos + footer(2);
  s += be(2, 1) + be(2, 4) + be(2, 8) + word(block) + be(0, 1);
  s += be(4096 | 8 | 32, 8) + std::string(4096, 'b') + k_eos + footer(2);
  s += be(3, 1) + be(2, 4) + k_eos + footer(2);
  return s;
}
std::string devices() {
  return head() + be(4, 1) + be(5, 4) + word("timer") + be(0, 4) + be(2, 4) + "state" + footer(5) +
         be(0, 1);
}

}  // namespace

TEST_CASE("the memory of a state ends where its last section does", "[snapshot]") {
  for (const bool configuration : {false, true}) {
    const std::string memory = state_front(configuration);
    const auto end = vm::end_of_ram(memory + devices().substr(8));
    REQUIRE(end);
    CHECK(*end == memory.size());
  }
}

TEST_CASE("a command to whoever loads it may stand in the memory of a state", "[snapshot]") {
  // As QEMU 10.0 says that the CPUs have been stopped, there without anything more.
  for (const std::string& words : {std::string(), std::string("words")}) {
    std::string memory = state_front(true);
    const std::string end = be(3, 1) + be(2, 4) + k_eos + footer(2);
    REQUIRE(memory.substr(memory.size() - end.size()) == end);
    memory.insert(memory.size() - end.size(), be(8, 1) + be(11, 2) + be(words.size(), 2) + words);
    const auto found = vm::end_of_ram(memory + devices().substr(8));
    REQUIRE(found);
    CHECK(*found == memory.size());
  }
  CHECK_FALSE(
      vm::end_of_ram(head() + be(8, 1) + be(11, 2) + be(0, 2) + state_front(true).substr(8)));
}

TEST_CASE("a state that is cut anywhere in its memory is refused", "[snapshot]") {
  const std::string memory = state_front(true);
  for (size_t size = 0; size < memory.size(); ++size) {
    const auto end = vm::end_of_ram(std::string_view(memory).substr(0, size));
    // Footers are optional: what is cut there is still whole.
    if (end) CHECK(size >= memory.size() - 5);
  }
}

TEST_CASE("a state with the guest's own memory in it is refused", "[snapshot]") {
  // If this fails, the second snapshot of a VM goes on with the memory of the first.
  const auto end = vm::end_of_ram(state_front(true, "ram") + devices().substr(8));
  REQUIRE_FALSE(end);
  CHECK(end.error().code == Code::unsupported);
  CHECK(vm::end_of_ram(state_front(true, "rame")));
}

TEST_CASE("a state whose memory is of another kind is refused", "[snapshot]") {
  CHECK_FALSE(vm::end_of_ram(""));
  CHECK_FALSE(vm::end_of_ram(devices()));
  std::string compressed = state_front(false);
  const size_t page = compressed.find(be(4096 | 8 | 32, 8));
  compressed.replace(page, 8, be(4096 | 0x100 | 32, 8));
  CHECK_FALSE(vm::end_of_ram(compressed));
  std::string twice = head() + state_front(false).substr(8) + state_front(false).substr(8);
  CHECK(vm::end_of_ram(twice));  // what comes behind is none of ours
}

TEST_CASE("devices go behind the memory of another state, with an end that QEMU takes",
          "[snapshot]") {
  const std::string memory = state_front(true);
  const auto joined = vm::join_device_state(memory, devices());
  REQUIRE(joined);
  CHECK(joined->substr(0, memory.size()) == memory);
  CHECK(joined->substr(memory.size(), devices().size() - 8) == devices().substr(8));
  CHECK(joined->substr(memory.size() + devices().size() - 8) == be(6, 1) + be(2, 4) + "{}");
  const auto end = vm::end_of_ram(*joined);
  REQUIRE(end);
  CHECK(*end == memory.size());
  CHECK_FALSE(vm::join_device_state(memory, ""));
  CHECK_FALSE(vm::join_device_state(memory, head()));
  CHECK_FALSE(vm::join_device_state(memory, devices().substr(0, devices().size() - 1)));
}
