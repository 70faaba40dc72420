// SPDX-License-Identifier: MIT
// Spreads a disk over several images, chunk by chunk in turn. What one request touches of a member
// is one contiguous range there, so a request becomes a few requests per member, whatever its
// length; reads and writes are split by their segments, nothing is copied. The pieces run side by
// side, and of several errors the one that comes first in time is the answer.
//
// The rules are those of OpenVMM's disk_striped: members are alike, the tail of a member that is no
// whole chunk is left out, and the whole has no id of its own.
#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_default_chunk = "128K";
constexpr uint64_t k_max_chunk = 1 << 30;
constexpr size_t k_max_members = 64;
constexpr size_t k_max_segments = 1024;         // of one request below: IOV_MAX
constexpr uint64_t k_max_map_chunks = 1 << 16;  // a longer map is answered in part
constexpr size_t k_max_extents = 4096;

constexpr ParamSpec k_stripe_params[] = {
    {"with", "PATH+PATH", "the further members, in order; a + in a path is written twice",
     ParamSpec::paths},
    {"chunk", "SIZE", "bytes on one member before the next one's turn (default: 128K)"},
};

class Stripe final : public Forward {
 public:
  Stripe(std::unique_ptr<Disk> lower, std::vector<std::unique_ptr<Disk>> others, uint64_t chunk)
      : Forward(std::move(lower)), others_(std::move(others)), chunk_(chunk) {
    members_.push_back(&this->lower());
    for (const auto& other : others_) members_.push_back(other.get());
    refresh();
  }

  const Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->stripe = this;
    flight->error = 0;
    flight->pieces.clear();
    if (request.op == Op::flush)
      for (size_t i = 0; i < members_.size(); ++i) piece(*flight, i);
    else if (request.op == Op::read || request.op == Op::write)
      split_data(*flight);
    else
      split_range(*flight);
    // One more than there are: a piece that completes at once must not end the request.
    flight->pending = flight->pieces.size() + 1;
    for (size_t i = 0; i < flight->pieces.size(); ++i) {
      Piece* part = flight->pieces[i];
      if (!part->data.empty()) {
        part->child.data = part->data.data();
        part->child.segments = static_cast<int>(part->data.size());
      }
      members_[part->member]->submit(part->child);
    }
    ended(*flight, 0);
  }

  // A base of several files is another one when any of them is, or their order.
  Result<json> control(const json& request) override {
    if (get_string(request, "op") != "base.identity") return lower().control(request);
    uint64_t size = 0, mixed = chunk_;
    for (Disk* member : members_) {
      TRY_ASSIGN(const json one, member->control(request));
      size += get_u64(one, "file_size");
      mixed = mix(mixed, mix(get_u64(one, "file_size"), get_u64(one, "mtime_ns")));
    }
    return json{{"file_size", size}, {"mtime_ns", mixed}};
  }

  // Every member becomes its share of the new size; all of them or none.
  Result<> resize(uint64_t size) override {
    const uint64_t row = chunk_ * members_.size();
    if (size == 0 || size % row != 0)
      return fail(Code::invalid, fmt::format("layer 'stripe': a size must be a multiple of {} "
                                             "bytes ({} members, chunks of {})",
                                             row, members_.size(), chunk_));
    for (size_t i = 0; i < members_.size(); ++i) {
      const uint64_t before = members_[i]->geometry().size;
      auto resized = members_[i]->resize(size / members_.size());
      if (resized) {
        sizes_[i] = before;
        continue;
      }
      while (i-- > 0) static_cast<void>(members_[i]->resize(sizes_[i]));
      return resized;
    }
    refresh();
    return {};
  }

  // Of several images a snapshot makes one. What layers below remember would be lost in it.
  Result<> save_state(StateOut& out) override {
    if (out.in_base()) return lower().save_state(out);
    json below;
    lower().inspect(below);
    const json* faults = pv::find(below, "faults");
    if (faults != nullptr && !faults->empty())
      return fail(Code::unsupported, "fault rules below a stripe cannot be part of a snapshot");
    return out.content(*this, -1);
  }

  void inspect(json& out) const override {
    json members = json::array();
    for (const auto& other : others_) {
      json shown = json::object();
      other->inspect(shown);
      members.push_back(shown);
    }
    out["stripe"] = {{"members", members_.size()}, {"chunk_bytes", chunk_}, {"further", members}};
    lower().inspect(out);
  }

 private:
  struct Flight;
  struct Piece {
    Request child;
    Flight* flight = nullptr;
    size_t member = 0;
    std::vector<iovec> data;
    std::vector<Extent> extents;
  };
  struct Flight {
    Request* parent = nullptr;
    Stripe* stripe = nullptr;
    std::vector<Piece*> pieces;
    size_t pending = 0;
    int error = 0;
  };

  void refresh() {
    geometry_ = members_.front()->geometry();
    geometry_.id = {};
    uint64_t smallest = UINT64_MAX;
    for (const Disk* member : members_) {
      const Geometry& g = member->geometry();
      smallest = std::min(smallest, g.size);
      geometry_.fua = geometry_.fua && g.fua;
      geometry_.discard_granularity =
          std::max(geometry_.discard_granularity, g.discard_granularity);
      if (g.discard != geometry_.discard) geometry_.discard = DiscardBehaviour::unspecified;
    }
    geometry_.size = smallest / chunk_ * chunk_ * members_.size();
    sizes_.resize(members_.size());
  }

  size_t member_of(uint64_t offset) const { return offset / chunk_ % members_.size(); }
  uint64_t place_of(uint64_t offset) const {
    return offset / (chunk_ * members_.size()) * chunk_ + offset % chunk_;
  }

  // A new piece on `member`, without a range.
  Piece& piece(Flight& flight, size_t member) {
    Piece* part = pieces_.take();
    make_child(part->child, *flight.parent, part, [](Request& child, int error) {
      Flight& whole = *static_cast<Piece*>(child.owner)->flight;
      whole.stripe->ended(whole, error);
    });
    part->flight = &flight;
    part->member = member;
    part->data.clear();
    part->extents.clear();
    flight.pieces.push_back(part);
    return *part;
  }

  void split_data(Flight& flight) {
    const Request& request = *flight.parent;
    if (request.offset % chunk_ + request.length <= chunk_) {  // as it is, the loan too
      piece(flight, member_of(request.offset)).child.offset = place_of(request.offset);
      return;
    }
    int segment = 0;
    size_t used = 0;  // of that segment
    for (uint64_t at = request.offset, end = at + request.length; at < end;) {
      const uint64_t n = std::min(chunk_ - at % chunk_, end - at);
      piece_.clear();
      for (uint64_t left = n; left != 0;) {
        const iovec& from = request.data[segment];
        const size_t part = std::min<uint64_t>(from.iov_len - used, left);
        if (part != 0) piece_.push_back({static_cast<char*>(from.iov_base) + used, part});
        used += part;
        left -= part;
        if (used == from.iov_len) ++segment, used = 0;
      }
      Piece& target = piece_with_room(flight, member_of(at), place_of(at));
      target.data.insert(target.data.end(), piece_.begin(), piece_.end());
      target.child.length += n;
      at += n;
    }
  }

  // The piece of that member that ends right at `place` and takes `piece_` as well, or a new one.
  Piece& piece_with_room(Flight& flight, size_t member, uint64_t place) {
    const size_t look = std::min(flight.pieces.size(), members_.size());
    for (size_t i = 0; i < look; ++i) {
      Piece& known = *flight.pieces[flight.pieces.size() - 1 - i];
      if (known.member == member && known.child.offset + known.child.length == place &&
          known.data.size() + piece_.size() <= k_max_segments)
        return known;
    }
    Piece& fresh = piece(flight, member);
    fresh.child.offset = place;
    fresh.child.length = 0;
    fresh.child.loan = nullptr;
    fresh.child.wire = nullptr;
    return fresh;
  }

  // The end of what a request that ends at `end` touches of a member.
  uint64_t end_on(size_t member, uint64_t end) const {
    const uint64_t last = (end - 1) / chunk_, n = members_.size();
    if (last % n == member) return place_of(end - 1) + 1;
    const uint64_t row = last / n;
    return last % n > member ? (row + 1) * chunk_ : row * chunk_;
  }

  // One range on each member that is touched.
  void split_range(Flight& flight) {
    const Request& request = *flight.parent;
    uint64_t end = request.offset + request.length;
    if (request.op == Op::map) {
      const uint64_t chunks = (request.flags & k_one) != 0 ? 1 : k_max_map_chunks;
      end = std::min(end, (request.offset / chunk_ + chunks) * chunk_);
    }
    const uint64_t first = request.offset / chunk_, n = members_.size();
    for (uint64_t i = first; i < first + n && i * chunk_ < end; ++i) {
      const size_t member = i % n;
      const uint64_t begin = i == first ? place_of(request.offset) : i / n * chunk_;
      Piece& part = piece(flight, member);
      part.child.offset = begin;
      part.child.length = end_on(member, end) - begin;
      part.child.wire = nullptr;
      part.child.extents = request.extents ? &part.extents : nullptr;
    }
  }

  void ended(Flight& flight, int error) {
    if (error != 0 && flight.error == 0) flight.error = error;
    if (--flight.pending != 0) return;
    Request* parent = flight.parent;
    const int outcome = flight.error;
    if (parent->op == Op::map && outcome == 0) merge(flight);
    for (Piece* part : flight.pieces) pieces_.give(part);
    flights_.give(&flight);
    parent->done(*parent, outcome);
  }

  // The members' extents, chunk by chunk in turn, as far as all of them reach.
  static void merge(Flight& flight) {
    const Request& parent = *flight.parent;
    const Stripe& stripe = *flight.stripe;
    const uint64_t end = parent.offset + parent.length, n = stripe.members_.size();
    const size_t before = parent.extents->size();
    std::vector<std::pair<size_t, uint64_t>> cursors(flight.pieces.size());  // extent, used of it
    for (uint64_t at = parent.offset; at < end;) {
      const size_t index = (at / stripe.chunk_ - parent.offset / stripe.chunk_) % n;
      if (index >= flight.pieces.size()) return;
      const auto& extents = flight.pieces[index]->extents;
      auto& [next, used] = cursors[index];
      if (next == extents.size()) return;
      const uint64_t length =
          std::min({extents[next].length - used, stripe.chunk_ - at % stripe.chunk_, end - at});
      const bool more =
          parent.extents->size() > before && parent.extents->back().flags == extents[next].flags;
      if (!more &&
          parent.extents->size() - before == ((parent.flags & k_one) != 0 ? 1 : k_max_extents))
        return;
      if (more)
        parent.extents->back().length += length;
      else
        parent.extents->push_back({length, extents[next].flags});
      at += length;
      used += length;
      if (used == extents[next].length) ++next, used = 0;
    }
  }

  std::vector<std::unique_ptr<Disk>> others_;
  std::vector<Disk*> members_;
  std::vector<uint64_t> sizes_;  // while they change
  uint64_t chunk_;
  Geometry geometry_;
  Pool<Flight> flights_;
  Pool<Piece> pieces_;
  std::vector<iovec> piece_;  // segments of one chunk
};

// Names everything in which a member is not as the first one.
Result<> compare(const Geometry& first, const Geometry& other, const std::string& path) {
  std::vector<std::string> differs;
  const auto look = [&](const char* name, uint64_t a, uint64_t b) {
    if (a != b) differs.push_back(fmt::format("{} {} instead of {}", name, b, a));
  };
  look("sector size", first.sector_size, other.sector_size);
  look("physical sector size", first.physical_sector_size, other.physical_sector_size);
  look("size", first.size, other.size);
  if (first.read_only != other.read_only)
    differs.emplace_back(other.read_only ? "read-only" : "not read-only");
  if (differs.empty()) return {};
  return fail(Code::invalid, fmt::format("layer 'stripe': members that differ: {} has {}", path,
                                         join(differs, ", ")));
}

Result<uint64_t> parse_chunk(const std::string& text, const Geometry& geometry) {
  const auto size = parse_size(text);
  if (size && *size != 0 && *size <= k_max_chunk && *size % geometry.sector_size == 0) return *size;
  return fail(Code::usage, fmt::format("layer 'stripe': chunk={} is not a multiple of the sector "
                                       "size {} up to {}",
                                       text, geometry.sector_size, format_size(k_max_chunk)));
}

}  // namespace

std::span<const ParamSpec> stripe_params() {
  return k_stripe_params;
}

Result<std::unique_ptr<Disk>> make_stripe(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                          const Env& env) {
  const Geometry& first = lower->geometry();
  const auto given = spec.params.find("chunk");
  TRY_ASSIGN(const uint64_t chunk,
             parse_chunk(given == spec.params.end() ? k_default_chunk : given->second, first));
  const auto with = spec.params.find("with");
  if (with == spec.params.end() || env.opener == nullptr)
    return fail(Code::usage, "layer 'stripe' needs members, e.g. stripe:with=b.img+c.img");
  const std::vector<std::string> paths = split_doubled(with->second, '+');
  if (paths.size() >= k_max_members)
    return fail(Code::usage, fmt::format("layer 'stripe': more than {} members", k_max_members));
  std::vector<std::unique_ptr<Disk>> others;
  for (const std::string& path : paths) {
    if (path.empty())
      return fail(Code::usage, fmt::format("layer 'stripe': with={} names a member without a path",
                                           with->second));
    TRY_ASSIGN(std::unique_ptr<Disk> other, env.opener->image(path, first.read_only, ""));
    TRY(compare(first, other->geometry(), path));
    others.push_back(std::move(other));
  }
  if (first.size < chunk)
    return fail(Code::invalid, fmt::format("layer 'stripe': members of {} bytes hold no chunk of "
                                           "{}",
                                           first.size, chunk));
  return std::make_unique<Stripe>(std::move(lower), std::move(others), chunk);
}

}  // namespace pv::blk
