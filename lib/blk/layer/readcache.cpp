// SPDX-License-Identifier: MIT
// Keeps what was read from a slow disk in a fast place. Writes go through to the slow disk, which
// is always right; what is remembered here is which sectors of the cache are as there.
//
// What is in flight may make a sector doubtful: a read that fills the cache while a write passes
// it, two writes of the same sectors. Whoever notices such company remembers nothing at the end.
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/child.hpp"
#include "blk/image_lock.hpp"
#include "blk/layer/layers.hpp"
#include "blk/layer/presence.hpp"

namespace pv::blk {
namespace {

constexpr ParamSpec k_readcache_params[] = {
    {"file", "PATH", "keep it in this sparse file", ParamSpec::path},
    {"size", "SIZE", "keep at most so much (default with memory: 64M)"},
    {"populate", "WHEN", "read, write or both (default: read)"},
};
constexpr uint64_t k_default_memory = 64 << 20;
constexpr uint64_t k_region = 64 << 10;  // what is dropped at once when it is full

// The fast place: a disk as large as the slow one, at the same addresses.
struct Store {
  std::unique_ptr<Disk> disk;
  Fd fd;  // of a file
};

// A mark behind the data tells a cache of ours, which may be emptied, from somebody's image.
constexpr std::string_view k_mark = "provium read cache, worthless  \n";

Result<> mark(int fd, uint64_t size) {
  if (ftruncate(fd, 0) < 0 || ftruncate(fd, static_cast<off_t>(size)) < 0 ||
      pwrite(fd, k_mark.data(), k_mark.size(), static_cast<off_t>(size)) !=
          static_cast<ssize_t>(k_mark.size()))
    return fail_errno("cannot size the read cache", errno);
  return {};
}

Result<Store> open_file_store(const std::string& path, Geometry geometry, AsyncIo& io) {
  Store store;
  store.fd.reset(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!store.fd) return fail_errno("cannot open read cache " + path, errno);
  TRY_ASSIGN(const uint64_t length, size_of_file(store.fd.get(), path));
  TRY(lock_image(store.fd.get(), false, path));
  std::string end(k_mark.size(), '\0');
  const auto at = static_cast<off_t>(length - std::min<uint64_t>(length, end.size()));
  if (length != 0 && (pread(store.fd.get(), end.data(), end.size(), at) < 0 || end != k_mark))
    return fail(Code::invalid, path + " is no read cache; it is left as it is");
  TRY(mark(store.fd.get(), geometry.size));
  Fd again(fcntl(store.fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!again) return fail_errno("cannot open read cache " + path, errno);
  store.disk = make_file_disk(std::move(again), geometry, io);
  return store;
}

class ReadCache final : public Forward {
 public:
  ReadCache(std::unique_ptr<Disk> lower, Store store, uint64_t room, bool on_read, bool on_write)
      : Forward(std::move(lower)),
        store_(std::move(store)),
        present_(geometry().size),
        room_(room),
        on_read_(on_read),
        on_write_(on_write) {}

  void submit(Request& request) override {
    switch (request.op) {
      case Op::read:
        return read(request);
      case Op::write:
      case Op::zero:
      case Op::discard:
        return change(request);
      default:
        return lower().submit(request);
    }
  }

  // What was read here may be what a volatile cache below has lost with its power.
  Result<json> control(const json& request) override {
    if (get_string(request, "op") == "power.on") empty();
    return lower().control(request);
  }

  // All is forgotten: where the file ends, or memory, has moved.
  Result<> resize(uint64_t size) override {
    TRY(lower().resize(size));
    present_.reset(geometry().size);
    if (!store_.fd) return store_.disk->resize(geometry().size);
    return mark(store_.fd.get(), geometry().size);
  }

  void inspect(json& out) const override {
    out["readcache"] = {{"kind", store_.fd ? "file" : "memory"},
                        {"cached_bytes", present_.bytes()},
                        {"hits", hits_},
                        {"misses", misses_},
                        {"hit_bytes", hit_bytes_},
                        {"dropped_bytes", dropped_bytes_},
                        {"cache_errors", cache_errors_}};
    lower().inspect(out);
  }

 private:
  struct Flight {
    ReadCache* cache = nullptr;
    Request* parent = nullptr;
    Request child;
    bool change = false;
    bool hit = false;
    bool doubtful = false;  // met somebody on the same sectors: remember nothing
    bool was_present = false;
  };

  static bool overlap(const Request& a, const Request& b) {
    return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
  }

  void read(Request& request) {
    const uint64_t end = request.offset + request.length;
    if (present_.all(request.offset, end)) {
      ++hits_;
      hit_bytes_ += request.length;
      return read_cached(request);
    }
    ++misses_;
    if (!on_read_) return lower().submit(request);
    Flight& flight = enter(request, false);
    flight.child.loan = nullptr;  // the bytes are wanted here as well
    lower().submit(flight.child);
  }

  void read_cached(Request& request) {
    if (room_ == UINT64_MAX) return store_.disk->submit(request);
    // What is dropped meanwhile would read as zeroes, so it must be known to be in use, and be
    // copied out.
    Flight& flight = enter(request, false);
    flight.child.loan = nullptr;
    flight.hit = true;
    store_.disk->submit(flight.child);
  }

  void change(Request& request) {
    Flight& flight = enter(request, true);
    flight.was_present = present_.all(request.offset, request.offset + request.length);
    lower().submit(flight.child);
  }

  Flight& enter(Request& request, bool change) {
    Flight& flight = *flights_.take();
    flight.cache = this;
    flight.parent = &request;
    flight.change = change;
    flight.hit = false;
    flight.doubtful = false;
    make_child(flight.child, request, &flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.cache->came_back(done, error);
    });
    for (Flight* other : active_)
      if ((change || other->change) && overlap(request, *other->parent))
        flight.doubtful = other->doubtful = true;
    active_.push_back(&flight);
    return flight;
  }

  // The slow disk has answered, or the cache has.
  void came_back(Flight& flight, int error) {
    const Request& parent = *flight.parent;
    if (flight.hit) return finish(flight, error);
    const uint64_t end = parent.offset + parent.length;
    const bool fill = error == 0 && (parent.op == Op::read    ? on_read_
                                     : parent.op == Op::write ? on_write_ || flight.was_present
                                                              : false);
    if (!fill || flight.doubtful || parent.length > room_) {
      // A change that failed may have happened in part.
      if (flight.change) forget(parent.offset, end);
      return finish(flight, error);
    }
    make_room(parent.length);
    make_child(flight.child, parent, &flight, [](Request& child, int with) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.cache->filled(done, with);
    });
    flight.child.op = Op::write;
    flight.child.flags = k_internal;
    flight.child.loan = nullptr;
    store_.disk->submit(flight.child);
  }

  // The fast place has taken it, or has not; the request itself has succeeded.
  void filled(Flight& flight, int error) {
    const uint64_t from = flight.parent->offset, end = from + flight.parent->length;
    if (error != 0) ++cache_errors_;
    if (error == 0 && !flight.doubtful)
      present_.set(from, end);
    else if (flight.change || error != 0)
      forget(from, end);
    finish(flight, 0);
  }

  void finish(Flight& flight, int error) {
    Request* parent = flight.parent;
    std::erase(active_, &flight);
    flights_.give(&flight);
    parent->done(*parent, error);
  }

  // While nothing is in flight.
  void empty() {
    present_.reset(geometry().size);
    if (store_.fd) return static_cast<void>(mark(store_.fd.get(), geometry().size));
    Request all;
    all.op = Op::discard;
    all.length = geometry().size;
    all.done = [](Request&, int) {};
    store_.disk->submit(all);
  }

  void forget(uint64_t from, uint64_t end) { present_.clear(from, end); }

  // Drops the next regions in turn until `length` more fit. Where somebody is at work nothing is
  // dropped.
  void make_room(uint64_t length) {
    const uint64_t size = geometry().size;
    for (uint64_t looked = 0;
         room_ - std::min(room_, present_.bytes()) < length && looked < size;) {
      Request region;
      region.offset = hand_ < size ? hand_ : 0;
      region.length = std::min(k_region, size - region.offset);
      looked += region.length;
      hand_ = region.offset + region.length;
      const auto busy = [&](const Flight* flight) { return overlap(region, *flight->parent); };
      if (std::none_of(active_.begin(), active_.end(), busy)) drop(region);
    }
  }

  void drop(const Request& region) {
    const uint64_t had = present_.bytes();
    present_.clear(region.offset, region.offset + region.length);
    if (present_.bytes() == had) return;
    dropped_bytes_ += had - present_.bytes();
    if (store_.fd) {  // at once: what is written there next must not be hit by it
      static_cast<void>(fallocate(store_.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<off_t>(region.offset),
                                  static_cast<off_t>(region.length)));
      return;
    }
    Request discard = region;  // memory answers inline
    discard.op = Op::discard;
    discard.done = [](Request&, int) {};
    store_.disk->submit(discard);
  }

  Store store_;
  Presence present_;
  uint64_t room_;
  bool on_read_, on_write_;
  Pool<Flight> flights_;
  std::vector<Flight*> active_;
  uint64_t hand_ = 0;
  uint64_t hits_ = 0, misses_ = 0, hit_bytes_ = 0, dropped_bytes_ = 0, cache_errors_ = 0;
};

}  // namespace

std::span<const ParamSpec> readcache_params() {
  return k_readcache_params;
}

Result<std::unique_ptr<Disk>> make_readcache(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                             const Env& env) {
  std::string file, populate = "read";
  uint64_t room = 0;
  for (const auto& [key, value] : spec.params) {
    if (key == "file") file = value;
    if (key == "populate") populate = value;
    if (key != "size") continue;
    TRY_ASSIGN(room, parse_size(value));
    if (room < k_region)
      return fail(Code::usage, fmt::format("layer 'readcache': size={} is less than 64k", value));
  }
  if (populate != "read" && populate != "write" && populate != "both")
    return fail(Code::usage, fmt::format("layer 'readcache': populate={} is none of read, write, "
                                         "both",
                                         populate));
  Geometry geometry = lower->geometry();
  geometry.read_only = false;
  Store store;
  if (file.empty()) {
    if (spec.params.count("file") != 0)
      return fail(Code::usage, "layer 'readcache': file= names no file");
    TRY_ASSIGN(store.disk, make_memory_disk(geometry));
    if (room == 0) room = k_default_memory;
  } else {
    if (env.opener == nullptr) return fail(Code::bug, "layer 'readcache' needs files");
    TRY_ASSIGN(AsyncIo * io, env.opener->async_io());
    TRY_ASSIGN(store, open_file_store(file, geometry, *io));
    if (room == 0) room = UINT64_MAX;
  }
  return std::make_unique<ReadCache>(std::move(lower), std::move(store), room, populate != "write",
                                     populate != "read");
}

}  // namespace pv::blk
