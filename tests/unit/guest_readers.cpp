// SPDX-License-Identifier: MIT
// If this fails, a guest lacks a library or a module, or foreign bytes can crash a build: ELF
// files, compressed streams and kernels are read here whole, cut off everywhere, and damaged.
#include <algorithm>
#include <cstring>
#include <elf.h>
#include <lz4.h>
#include <stdlib.h>
#include <zlib.h>

#include "../catch.hpp"
#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/rng.hpp"
#include "guest/decompress.hpp"
#include "guest/elf.hpp"
#include "guest/kernel.hpp"
#include "guest/modules.hpp"

using namespace pv;
using namespace pv::guest;

namespace {

constexpr size_t k_max = size_t{64} << 20;

Deadline soon() {
  return Deadline::in_ms(10'000);
}

std::string le32(uint32_t value) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

std::string lz4_legacy(const std::string& content) {
  std::string block(static_cast<size_t>(LZ4_compressBound(static_cast<int>(content.size()))), '\0');
  const int n = LZ4_compress_default(content.data(), block.data(), static_cast<int>(content.size()),
                                     static_cast<int>(block.size()));
  block.resize(static_cast<size_t>(n));
  return "\x02\x21\x4c\x18" + le32(static_cast<uint32_t>(n)) + block;
}

std::string gzip(const std::string& content) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, content.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// The smallest ELF that carries one section, .modinfo.
std::string module_with(const std::string& modinfo_text) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_REL;
  header.e_machine = EM_X86_64;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 2;
  const std::string names("\0.modinfo\0.shstrtab\0", 20);
  Elf64_Shdr sections[2] = {};
  sections[0].sh_type = SHT_STRTAB;
  sections[0].sh_name = 10;
  sections[0].sh_offset = sizeof header;
  sections[0].sh_size = names.size();
  sections[1].sh_type = SHT_PROGBITS;
  sections[1].sh_name = 1;
  sections[1].sh_offset = sizeof header + names.size();
  sections[1].sh_size = modinfo_text.size();
  header.e_shoff = sizeof header + names.size() + modinfo_text.size();
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + names + modinfo_text +
         std::string(reinterpret_cast<const char*>(sections), sizeof sections);
}

// Reads it every way there is; only a crash or a sanitizer can fail this.
void read_all_ways(std::string_view bytes) {
  [[maybe_unused]] const auto info = read_elf(bytes);
  [[maybe_unused]] const auto section = elf_section(bytes, ".modinfo");
  [[maybe_unused]] const auto depends = modinfo(bytes, "depends");
  [[maybe_unused]] const auto bare = without_signature(bytes);
  [[maybe_unused]] const auto version = kernel_version(bytes);
}

}  // namespace

TEST_CASE("elf: this program's own needs", "[guest]") {
  const std::string self = read_file("/proc/self/exe", size_t{512} << 20).value();
  const ElfInfo info = read_elf(self).value();
  CHECK(std::find(info.needed.begin(), info.needed.end(), "libc.so.6") != info.needed.end());
  CHECK(info.interpreter.find("ld-linux") != std::string::npos);
  CHECK_FALSE(info.pvh);
}

TEST_CASE("elf: dependencies of a module", "[guest]") {
  const std::string module =
      module_with(std::string("license=GPL\0depends=virtio,virtio-ring\0alias=a\0alias=b\0", 56));
  CHECK(modinfo(module, "depends").value() == std::vector<std::string>{"virtio,virtio-ring"});
  CHECK(modinfo(module, "alias").value() == std::vector<std::string>{"a", "b"});
  CHECK(modinfo(module, "absent").value().empty());
}

TEST_CASE("modules: an algorithm that a module asks for comes before it", "[guest]") {
  char path[] = "/tmp/pv-modules-XXXXXX";
  REQUIRE(mkdtemp(path));
  const std::string dir = path;
  DEFER(remove_tree(dir));
  for (const char* asked :
       {"crc32c", "crypto-crc32c", "crc32c-generic", "crypto-none crypto-crc32c"}) {
    INFO(asked);
    REQUIRE(write_file_atomic(dir + "/ext4.ko", module_with(std::string("softdep=pre: ") + asked +
                                                            " post: late" + '\0')));
    for (const char* other : {"crc32c_generic", "late", "crypto"})
      REQUIRE(write_file_atomic(dir + "/" + other + ".ko", module_with("license=GPL")));
    const ModuleTree tree = index_modules(dir, "6.1").value();
    const ModuleSet set =
        close_modules(tree, {{"ext4", WantedModule::Missing::is_error, true}}, soon()).value();
    REQUIRE(set.load_order.size() == 2);
    CHECK(set.load_order[0].name == "crc32c_generic");
    CHECK(set.load_order[1].depends == std::vector<std::string>{"crc32c_generic"});
    CHECK(set.load_order[1].on_demand);
  }
}

TEST_CASE("elf: signature of a module", "[guest]") {
  const std::string module = module_with("license=GPL");
  const std::string marker = "~Module signature appended~\n";
  const std::string info = std::string(8, '\0') + std::string("\0\0\0\x05", 4);
  CHECK(without_signature(module + "12345" + info + marker) == module);
  CHECK(without_signature(module) == module);
  const std::string too_long = info.substr(0, 8) + "\xff\xff\xff\xff" + marker;
  CHECK(without_signature(too_long) == too_long);
  CHECK(without_signature(marker) == marker);
}

TEST_CASE("elf: cut off anywhere and damaged anywhere", "[guest]") {
  const std::string module = module_with(std::string("depends=a,b\0", 12));
  for (size_t length = 0; length <= module.size(); ++length) {
    const std::string cut = module.substr(0, length);
    if (length < module.size()) CHECK_FALSE(modinfo(cut, "depends"));
    read_all_ways(cut);
  }
  std::string program = read_file("/bin/true", k_max).value_or(module);
  const uint64_t seed = fresh_seed();
  INFO("seed " << seed);
  Rng rng(seed);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = round % 2 == 0 ? module : program;
    const size_t reach = std::min<size_t>(damaged.size(), round % 4 < 2 ? 64 : 1024);
    for (int i = 0; i < 4; ++i) damaged[rng.below(reach)] = static_cast<char>(rng.next());
    read_all_ways(damaged);
  }
}

TEST_CASE("decompress: round trips", "[guest]") {
  std::string content;
  for (unsigned i = 0; i < 100'000; ++i) content += static_cast<char>('a' + i * i % 7);
  CHECK(decompress(lz4_legacy(content), k_max, soon()).value() == content);
  CHECK(decompress(gzip(content), k_max, soon()).value() == content);
  CHECK(decompress(content, k_max, soon()).value() == content);
  CHECK(decompress(lz4_legacy(content), 1000, soon()).error().code == Code::invalid);
  CHECK(decompress(gzip(content), 1000, soon()).error().code == Code::invalid);
}

TEST_CASE("decompress: cut off and damaged streams are errors, not crashes", "[guest]") {
  const std::string content(5000, 'x');
  for (const std::string& packed : {lz4_legacy(content + "tail"), gzip(content + "tail")}) {
    for (size_t length = 6; length < packed.size(); ++length) {
      if (packed[0] == '\x02' && length == 4) continue;
      CHECK_FALSE(decompress(packed.substr(0, length), k_max, soon()));
    }
    for (size_t at = 4; at < packed.size(); ++at) {
      std::string damaged = packed;
      damaged[at] = static_cast<char>(~damaged[at]);
      [[maybe_unused]] const auto result = decompress(damaged, k_max, soon());
    }
  }
  const std::string magic = "\x02\x21\x4c\x18";
  for (const uint32_t size : {0U, 0xffffffffU, 0x7fffffffU})
    CHECK_FALSE(decompress(magic + le32(size) + "abcd", k_max, soon()));
}

TEST_CASE("kernel: neither bzImage nor vmlinux", "[guest]") {
  CHECK(load_kernel("", soon()).error().code == Code::invalid);
  CHECK(load_kernel("not a kernel", soon()).error().code == Code::invalid);
  CHECK(load_kernel(read_file("/bin/true", k_max).value(), soon()).error().code == Code::invalid);
}

TEST_CASE("kernel: a bzImage that cannot be extracted stays one", "[guest]") {
  std::string image(4096, '\0');
  image.replace(0x202, 4, "HdrS");
  image.replace(0x206, 2, "\x0f\x02");
  image.replace(0x20e, 2, std::string("\x00\x02", 2));
  image.replace(0x400, 20, "6.1.0-test (me) #1 x");
  for (const uint32_t offset : {0U, 100U, 4000U, 0xffffffffU}) {
    image.replace(0x248, 4, le32(offset));
    image.replace(0x24c, 4, le32(offset == 100 ? 64 : 0xfffffff0));
    const Kernel kernel = load_kernel(image, soon()).value();
    CHECK_FALSE(kernel.pvh);
    CHECK(kernel.bytes == image);
    CHECK(kernel.version == "6.1.0-test");
    CHECK_FALSE(kernel.note.empty());
  }
}
