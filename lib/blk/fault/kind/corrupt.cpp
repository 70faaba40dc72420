// SPDX-License-Identifier: MIT
// Kinds `corrupt_read` and `corrupt_write`: some of the data is not what it was. A read is damaged
// on its way out, so it is whole again when the rule has gone; a write is damaged on the medium,
// and what was meant is kept for a repair.
#include <numeric>

#include "blk/fault/kind/common.hpp"

namespace pv::blk {
namespace {

enum class Pattern : uint8_t { bit, byte, zeroes, ones, foreign };
constexpr const char* k_patterns[] = {"bit", "byte", "zeroes", "ones", "foreign"};

struct CorruptSettings {
  Pattern pattern = Pattern::bit;
  uint64_t count = 1;          // bits or bytes
  uint64_t length = 0;         // zeroes, ones, foreign: 0 is the whole request
  std::optional<uint64_t> at;  // within the request; else by chance
  uint64_t foreign = 0;        // where a foreign block comes from
};

class Corrupt final : public Action {
 public:
  Corrupt(Op op, const CorruptSettings& settings) : op_(op), s_(settings) {}

  uint32_t ops() const override { return op_bit(op_); }
  bool concerns(const Case& at) const override { return !s_.at || *s_.at < at.request.length; }
  json describe() const override {
    json object = {{"kind", op_ == Op::read ? "corrupt_read" : "corrupt_write"},
                   {"pattern", k_patterns[static_cast<int>(s_.pattern)]}};
    if (s_.pattern <= Pattern::byte)
      object["count"] = s_.count;
    else
      object["length_bytes"] = s_.length;
    if (s_.at) object["at"] = *s_.at;
    if (s_.pattern == Pattern::foreign) object["from_bytes"] = s_.foreign;
    return object;
  }

  void decide(const Case& at, Outcome& out) const override {
    const Part part = place(at);
    out.answer(0);
    out.note = fmt::format(R"("damaged_at_bytes":{},"damaged_bytes":{})",
                           at.request.offset + part.from, part.length);
    Step foreign = s_.pattern == Pattern::foreign ? foreign_block(at, part.length) : Step{};
    const auto other = foreign.own;
    if (other) out.steps.push_back(std::move(foreign));
    if (op_ == Op::read)
      damage_read(at, part, other, out);
    else
      damage_write(at, part, other, out);
  }

 private:
  struct Part {
    uint64_t from, length;
  };

  // Which part of the request: within the rule's ranges if it has some.
  Part place(const Case& at) const {
    const Request& request = at.request;
    const uint64_t sector = at.bench.geometry().sector_size;
    uint64_t from = 0;
    if (s_.at)
      from = *s_.at;
    else if (!at.ranges.empty())
      from = at.ranges.first(request.offset, request.length) - request.offset;
    else if (s_.pattern <= Pattern::byte || s_.length != 0)
      from = at.chance.below(1, request.length / sector) * sector;
    uint64_t length = s_.length == 0 ? request.length : s_.length;
    if (s_.pattern <= Pattern::byte) length = s_.at ? 1 : sector;
    return {from, std::min(length, request.length - from)};
  }

  Step foreign_block(const Case& at, uint64_t length) const {
    const uint64_t sector = at.bench.geometry().sector_size;
    const uint64_t whole = (length + sector - 1) / sector * sector;
    const uint64_t end = at.bench.geometry().size - whole;
    return read_aside(std::min(s_.foreign, end), whole);
  }

  void damage(char* data, uint64_t length, const char* other, const Chance& chance) const {
    if (s_.pattern <= Pattern::byte) flip(data, length, chance);
    if (s_.pattern == Pattern::zeroes) std::memset(data, 0, length);
    if (s_.pattern == Pattern::ones) std::memset(data, 0xff, length);
    if (s_.pattern == Pattern::foreign) std::memcpy(data, other, length);
  }

  void flip(char* data, uint64_t length, const Chance& chance) const {
    // Places apart from each other, or two flips could undo one another.
    const uint64_t places = s_.pattern == Pattern::bit ? 8 * length : length;
    const uint64_t first = chance.below(2, places);
    uint64_t stride = chance.bits(3) | 1;
    while (std::gcd(stride, places) != 1) stride += 2;
    for (uint64_t i = 0; i < std::min(s_.count, places); ++i) {
      const uint64_t place = (first + i * stride) % places;
      if (s_.pattern == Pattern::bit)
        data[place / 8] = static_cast<char>(data[place / 8] ^ 1 << (place % 8));
      else
        data[place] = static_cast<char>(data[place] ^ (1 + chance.below(16 + i, 255)));
    }
  }

  void damage_read(const Case& at, Part where, const std::shared_ptr<char[]>& other,
                   Outcome& out) const {
    const Request& request = at.request;
    Step read = part(request, 0, request.length);
    // The action outlives its flight's steps: the flight holds it.
    read.then = [this, &request, where, other, chance = at.chance] {
      std::string data(where.length, '\0');
      gather(request, where.from, data.data(), where.length);
      damage(data.data(), where.length, other.get(), chance);
      scatter(request, where.from, data.data(), where.length);
    };
    out.steps.push_back(std::move(read));
  }

  void damage_write(const Case& at, Part where, const std::shared_ptr<char[]>& other,
                    Outcome& out) const {
    const Request& request = at.request;
    const uint64_t sector = at.bench.geometry().sector_size;
    const uint64_t begin = where.from / sector * sector;
    const uint64_t end = (where.from + where.length + sector - 1) / sector * sector;
    if (begin != 0) out.steps.push_back(part(request, 0, begin));
    Step bad = part(request, begin, end - begin);
    bad.own.reset(new char[bad.length]);
    gather(request, begin, bad.own.get(), bad.length);
    if (!other) damage(bad.own.get() + (where.from - begin), where.length, nullptr, at.chance);
    if (other)  // it is read by the step before this one
      out.steps.front().then = [this, to = bad.own, at_byte = where.from - begin, where, other,
                                chance = at.chance] {
        damage(to.get() + at_byte, where.length, other.get(), chance);
      };
    Truth& truth = at.bench.truth();
    bad.then = [&truth, &request, rule = at.rule, begin, length = bad.length] {
      truth.remember(rule, request, begin, length);
    };
    out.steps.push_back(std::move(bad));
    if (end < request.length) out.steps.push_back(part(request, end, request.length - end));
  }

  Op op_;
  CorruptSettings s_;
};

Result<std::unique_ptr<Action>> make_corrupt(const json& object, const RuleGround& ground, Op op) {
  constexpr uint64_t k_max_count = 4096, k_max_length = 32 << 20;
  const Geometry& geometry = ground.geometry;
  Keys keys = keys_of(object);
  CorruptSettings s;
  s.pattern =
      static_cast<Pattern>(keys.choice("pattern", {"bit", "byte", "zeroes", "ones", "foreign"}, 0));
  if (s.pattern <= Pattern::byte)
    s.count = keys.whole("count", 1, 1, k_max_count);
  else
    s.length = keys.whole("length_bytes", 0, 1, k_max_length);
  if (keys.has("at")) s.at = keys.whole("at", 0, 0, k_max_length);
  if (s.pattern == Pattern::foreign) {
    s.foreign = keys.whole("from_bytes", 0, 0, geometry.size - 1);
    if (keys.good() && s.foreign % geometry.sector_size != 0)
      keys.refuse("do.from_bytes is not aligned to sectors");
  }
  TRY(keys.end());
  return std::make_unique<Corrupt>(op, s);
}

}  // namespace

Result<std::unique_ptr<Action>> make_corrupt_read(const json& object, const RuleGround& ground) {
  return make_corrupt(object, ground, Op::read);
}

Result<std::unique_ptr<Action>> make_corrupt_write(const json& object, const RuleGround& ground) {
  return make_corrupt(object, ground, Op::write);
}

}  // namespace pv::blk
