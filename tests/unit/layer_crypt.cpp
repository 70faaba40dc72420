// SPDX-License-Identifier: MIT
// If this fails, the crypt layer does not write what XTS-AES-256 is, loses data, or says of the
// disk what holds only below it.
#include <algorithm>
#include <cerrno>

#include "base/file.hpp"
#include "blk/xts.hpp"
#include "layer_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

// IEEE 1619-2007, annex B, vectors 10 to 14: the same key and plain text, other data units.
const char* const k_key =
    "2718281828459045235360287471352662497757247093699959574966967627"
    "3141592653589793238462643383279502884197169399375105820974944592";
struct Vector {
  uint64_t unit;
  const char* cipher;
};
const Vector k_vectors[] = {
    {0xff,
     "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9"
     "ac683f44680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f2"
     "7d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d"
     "7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834"
     "f280d7667b327f6c8cd7557e12ac3a0f93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1"
     "a8cc81ec583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070"
     "c13e9f1f289be54fbc481457778f616015e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec"
     "4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29"
     "a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac6e333b93eb4aff0479da9a41"
     "0e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed"
     "5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38"
     "014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"},
    {0xffff,
     "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11e1d0225438e093242d6db274"
     "fde801d4cae06f2092c728b2478559df58e837c2469ee4a4fa794e4bbc7f39bc026e3cb72c33b0888f25b4ac"
     "f56a2a9804f1ce6d3d6e1dc6ca181d4b546179d55544aa7760c40d06741539c7e3cd9d2f6650b2013fd0eeb8"
     "c2b8e3d8d240ccae2d4c98320a7442e1c8d75a42d6e6cfa4c2eca1798d158c7aecdf82490f24bb9b38e108bc"
     "da12c3faf9a21141c3613b58367f922aaa26cd22f23d708dae699ad7cb40a8ad0b6e2784973dcb605684c08b"
     "8d6998c69aac049921871ebb65301a4619ca80ecb485a31d744223ce8ddc2394828d6a80470c092f5ba413c3"
     "378fa6054255c6f9df4495862bbb3287681f931b687c888abf844dfc8fc28331e579928cd12bd2390ae123cf"
     "03818d14dedde5c0c24c8ab018bfca75ca096f2d531f3d1619e785f1ada437cab92e980558b3dce1474afb75"
     "bfedbf8ff54cb2618e0244c9ac0d3c66fb51598cd2db11f9be39791abe447c63094f7c453b7ff87cb5bb36b7"
     "c79efb0872d17058b83b15ab0866ad8a58656c5a7e20dbdf308b2461d97c0ec0024a2715055249cf3b478ddd"
     "4740de654f75ca686e0d7345c69ed50cdc2a8b332b1f8824108ac937eb050585608ee734097fc09054fbff89"
     "eeaeea791f4a7ab1f9868294a4f9e27b42af8100cb9d59cef9645803"},
    {0xffffff,
     "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200a8b490e42ee646802dc6ee2b"
     "471b278195d60918ececb44bf79966f83faba0499298ebc699c0c8634715a320bb4f075d622e74c8c932004f"
     "25b41e361025b5a87815391f6108fc4afa6a05d9303c6ba68a128a55705d415985832fdeaae6c8e19110e84d"
     "1b1f199a2692119edc96132658f09da7c623efcec712537a3d94c0bf5d7e352ec94ae5797fdb377dc1551150"
     "721adf15bd26a8efc2fcaad56881fa9e62462c28f30ae1ceaca93c345cf243b73f542e2074a705bd2643bb9f"
     "7cc79bb6e7091ea6e232df0f9ad0d6cf502327876d82207abf2115cdacf6d5a48f6c1879a65b115f0f8b3cb3"
     "c59d15dd8c769bc014795a1837f3901b5845eb491adfefe097b1fa30a12fc1f65ba22905031539971a10f2f3"
     "6c321bb51331cdefb39e3964c7ef079994f5b69b2edd83a71ef549971ee93f44eac3938fcdd61d01fa71799d"
     "a3a8091c4c48aa9ed263ff0749df95d44fef6a0bb578ec69456aa5408ae32c7af08ad7ba8921287e3bbee31b"
     "767be06a0e705c864a769137df28292283ea81a2480241b44d9921cdbec1bc28dc1fda114bd8e5217ac9d8eb"
     "afa720e9da4f9ace231cc949e5b96fe76ffc21063fddc83a6b8679c00d35e09576a875305bed5f36ed242c89"
     "00dd1fa965bc950dfce09b132263a1eef52dd6888c309f5a7d712826"},
    {0xffffffff,
     "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5520f7c4ab0ac8544424fa405"
     "162fef5a6b7f229498063618d39f0003cb5fb8d1c86b643497da1ff945c8d3bedeca4f479702a7a735f043dd"
     "b1d6aaade3c4a0ac7ca7f3fa5279bef56f82cd7a2f38672e824814e10700300a055e1630b8f1cb0e919f5e94"
     "2010a416e2bf48cb46993d3cb6a51c19bacf864785a00bc2ecff15d350875b246ed53e68be6f55bd7e05cfc2"
     "b2ed6432198a6444b6d8c247fab941f569768b5c429366f1d3f00f0345b96123d56204c01c63b22ce78baf11"
     "6e525ed90fdea39fa469494d3866c31e05f295ff21fea8d4e6e13d67e47ce722e9698a1c1048d68ebcde76b8"
     "6fcf976eab8aa9790268b7068e017a8b9b749409514f1053027fd16c3786ea1bac5f15cb79711ee2abe82f5c"
     "f8b13ae73030ef5b9e4457e75d1304f988d62dd6fc4b94ed38ba831da4b7634971b6cd8ec325d9c61c00f1df"
     "73627ed3745a5e8489f3a95c69639c32cd6e1d537a85f75cc844726e8a72fc0077ad22000f1d5078f6b86631"
     "8c668f1ad03d5a5fced5219f2eabbd0aa5c0f460d183f04404a0d6f469558e81fab24a167905ab4c7878502a"
     "d3e38fdbe62a41556cec37325759533ce8f25f367c87bb5578d667ae93f9e2fd99bcbc5f2fbba88cf6516139"
     "420fcff3b7361d86322c4bd84c82f335abb152c4a93411373aaa8220"},
    {0xffffffffff,
     "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed2350eae7e96087c8a0db51ad29"
     "0bd00c1ac1620857635bf246c176ab463be30b808da548081ac847b158e1264be25bb0910bbc926471080894"
     "15d45fab1b3d2604e8a8eff1ae4020cfa39936b66827b23f371b92200be90251e6d73c5f86de5fd4a9507819"
     "33d79a28272b782a2ec313efdfcc0628f43d744c2dc2ff3dcb66999b50c7ca895b0c64791eeaa5f29499fb1c"
     "026f84ce5b5c72ba1083cddb5ce45434631665c333b60b11593fb253c5179a2c8db813782a004856a1653011"
     "e93fb6d876c18366dd8683f53412c0c180f9c848592d593f8609ca736317d356e13e2bff3a9f59cd9aeb19cd"
     "482593d8c46128bb32423b37a9adfb482b99453fbe25a41bf6feb4aa0bef5ed24bf73c762978025482c13115"
     "e4015aac992e5613a3b5c2f685b84795cb6e9b2656d8c88157e52c42f978d8634c43d06fea928f2822e465aa"
     "6576e9bf419384506cc3ce3c54ac1a6f67dc66f3b30191e698380bc999b05abce19dc0c6dcc2dd001ec535ba"
     "18deb2df1a101023108318c75dc98611a09dc48a0acdec676fabdf222f07e026f059b672b56e5cbc8e1d21bb"
     "d867dd927212054681d70ea737134cdfce93b6f82ae22423274e58a0821cc5502e2d0ab4585e94de6975be5e"
     "0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9"},
};

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string plain_text() {
  std::string text;
  for (int i = 0; i < 512; ++i) text += static_cast<char>(i);
  return text;
}

struct KeyFile {
  TempDir dir;
  std::string path = dir.path("key");
  explicit KeyFile(const std::string& content = k_key) {
    REQUIRE(write_file_atomic(path, content));
  }
  std::string layer(const std::string& more = "") const { return "crypt:key-file=" + path + more; }
};

TEST_CASE("XTS-AES-256 gives the published cipher texts, and back", "[crypt]") {
  const std::string key = from_hex(k_key);
  uint8_t bytes[k_xts_key];
  std::copy(key.begin(), key.end(), bytes);
  const auto xts = Xts::create(bytes);
  REQUIRE(xts);
  for (const Vector& vector : k_vectors) {
    INFO(vector.unit);
    std::string out(512, 'x');
    REQUIRE((*xts)->encrypt(vector.unit, plain_text().data(), out.data(), 512));
    CHECK(out == from_hex(vector.cipher));
    REQUIRE((*xts)->decrypt(vector.unit, out.data(), out.data(), 512));
    CHECK(out == plain_text());
  }
}

TEST_CASE("a sector is a data unit, counted from the start of the disk", "[crypt]") {
  const KeyFile key;
  LayerRig rig({key.layer()});
  std::string data = plain_text();
  Io io(Op::write, 255 * 512, 512);
  std::copy(data.begin(), data.end(), io.data.begin());
  rig.submit(io);
  CHECK(io.error == 0);
  CHECK(io.bytes() == data);  // the caller's own buffer is left alone
  CHECK(rig.below->content(255 * 512, 512) == from_hex(k_vectors[0].cipher));
  CHECK(rig.read(255 * 512, 512) == data);
}

TEST_CASE("a key is 64 bytes or 128 digits, with or without an end of line", "[crypt]") {
  const std::vector<std::string> shapes = {from_hex(k_key), k_key, std::string(k_key).append("\n")};
  for (const std::string& content : shapes) {
    const KeyFile key(content);
    LayerRig rig({key.layer()});
    CHECK(rig.write(255 * 512, plain_text()) == 0);
    CHECK(rig.below->content(255 * 512, 512) == from_hex(k_vectors[0].cipher));
  }
}

TEST_CASE("a key of the wrong length, shape or place is refused", "[crypt]") {
  const Code invalid = Code::invalid;
  CHECK_THAT(refusal("crypt"), contains_text("needs a key: key-file=PATH"));
  CHECK_THAT(refusal("crypt:key=00"), contains_text("no key 'key' (keys: key-file discard)"));
  CHECK_THAT(refusal("crypt:key-file=/does/not/exist", invalid), contains_text("/does/not/exist"));
  for (const size_t n : {0, 32, 63, 65, 127, 129, 130}) {
    const KeyFile key(many('a', n));
    const std::string said = refusal(key.layer(), invalid);
    CHECK_THAT(said, contains_text(std::to_string(n) + " bytes"));
    CHECK_THAT(said, contains_text("64 bytes or 128 hexadecimal digits"));
  }
  const KeyFile no_digits(many('z', 128)), same(many('a', 64)), large(many('a', 5000));
  CHECK_THAT(refusal(no_digits.layer(), invalid), contains_text("that are no digits"));
  CHECK_THAT(refusal(same.layer(), invalid), contains_text("two halves"));
  CHECK_THAT(refusal(large.layer(), invalid), contains_text("key-file"));
  const KeyFile good;
  CHECK_THAT(refusal(good.layer(",discard=maybe")),
             contains_text("discard=maybe is not on or off"));
}

TEST_CASE("the disk above says what holds for plain text", "[crypt]") {
  const KeyFile key;
  {
    LayerRig rig({key.layer()});
    CHECK(rig.disk->geometry().discard == DiscardBehaviour::unspecified);
    CHECK(rig.write(0, many('a', 4096)) == 0);
    CHECK(rig.run(Op::discard, 0, 4096) == 0);
    CHECK(rig.below->count(Op::discard) == 1);
    CHECK(rig.read(0, 4096) != many('a', 4096));
    Io map(Op::map, 0, 65'536);
    rig.submit(map);
    REQUIRE(map.extents.size() == 1);
    CHECK(map.extents[0].flags == 0);
  }
  LayerRig rig({key.layer(",discard=off")});
  CHECK(rig.disk->geometry().discard == DiscardBehaviour::ignored);
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK(rig.run(Op::discard, 0, 4096) == 0);
  CHECK(rig.below->count(Op::discard) == 0);
  CHECK(rig.read(0, 4096) == many('a', 4096));
}

TEST_CASE("zeroes are written, in pieces where they are many", "[crypt]") {
  const KeyFile key;
  Geometry geometry = LayerRig::small();
  geometry.size = 4 << 20;
  LayerRig rig({key.layer()}, geometry);
  Io zero(Op::zero, 512, (3 << 20) + 512, k_fua);
  rig.submit(zero);
  rig.advance_ms(1);
  CHECK(zero.error == 0);
  CHECK(rig.read(512, (3 << 20) + 512) == many('\0', (3 << 20) + 512));
  CHECK(rig.below->count(Op::zero) == 0);
  CHECK(rig.below->count(Op::write) == 4);
  for (const Probe::Seen& seen : rig.below->seen)
    if (seen.op == Op::write) CHECK(seen.flags == k_fua);
  rig.below->error = ENOSPC;
  Io full(Op::zero, 0, 2 << 20);
  rig.submit(full);
  CHECK(full.error == ENOSPC);
}

TEST_CASE("sectors of 4096 bytes are one data unit each", "[crypt]") {
  const KeyFile key;
  Geometry geometry = LayerRig::small();
  geometry.sector_size = geometry.physical_sector_size = 4096;
  LayerRig rig({key.layer()}, geometry);
  CHECK(rig.write(4096, many('a', 8192)) == 0);
  Io read(Op::read, 4096, 8192);
  read.split_into({1, 4094, 2, 4095});
  rig.submit(read);
  CHECK(read.bytes() == many('a', 8192));
  const std::string raw = from_hex(k_key);
  uint8_t bytes[k_xts_key];
  std::copy(raw.begin(), raw.end(), bytes);
  const auto xts = Xts::create(bytes);
  std::string unit = many('a', 4096);
  REQUIRE((*xts)->encrypt(8, unit.data(), unit.data(), 4096));  // counted in 512 bytes all the same
  CHECK(rig.below->content(4096, 4096) == unit);
}

}  // namespace
