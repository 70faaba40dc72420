// SPDX-License-Identifier: MIT
#include "blk/checked.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "base/json.hpp"
#include "blk/child.hpp"

namespace pv::blk {
namespace {

class Checked : public Forward {
 public:
  using Forward::Forward;
  void submit(Request& request) override {
    if (const int error = validate(geometry(), request)) {
      if (error == ERANGE) ++out_of_range_;
      request.done(request, error);
      return;
    }
    if (request.op != Op::flush && request.length == 0) {
      request.done(request, 0);  // legal and without effect
      return;
    }
    lower().submit(request);
  }
  void inspect(json& out) const override {
    out["out_of_range"] = out_of_range_;
    lower().inspect(out);
  }

 private:
  uint64_t out_of_range_ = 0;
};

[[noreturn]] void violation(const char* what, const Request& request) {
  std::fprintf(stderr, "disk contract broken: %s (%s at %llu, %llu bytes)\n", what,
               op_name(request.op), static_cast<unsigned long long>(request.offset),
               static_cast<unsigned long long>(request.length));
  std::abort();
}

class Audited final : public Checked {
 public:
  using Checked::Checked;
  ~Audited() override {
    for (const auto& audit : audits_)
      if (!audit->completed) violation("never completed", audit->child);
  }
  void submit(Request& request) override {
    // Kept to the end: a second completion must find the evidence of the first.
    audits_.push_back(std::make_unique<Audit>());
    Audit* audit = audits_.back().get();
    audit->parent = &request;
    audit->extents_before = request.extents ? request.extents->size() : 0;
    make_child(audit->child, request, audit, &Audited::completed);
    Checked::submit(audit->child);
  }

 private:
  struct Audit {
    Request child;
    Request* parent = nullptr;
    size_t extents_before = 0;
    bool completed = false;
  };
  std::vector<std::unique_ptr<Audit>> audits_;

  static void completed(Request& child, int error) {
    auto* audit = static_cast<Audit*>(child.owner);
    if (audit->completed) violation("completed twice", child);
    if (error < 0 || error > 4095) violation("completed with something that is no errno", child);
    if (error == 0 && child.op == Op::map && child.length != 0) check_extents(*audit);
    audit->completed = true;
    Request* parent = audit->parent;
    parent->done(*parent, error);
  }

  static void check_extents(const Audit& audit) {
    const auto& extents = *audit.child.extents;
    uint64_t covered = 0;
    for (size_t i = audit.extents_before; i < extents.size(); ++i) {
      if (extents[i].length == 0) violation("an extent of length zero", audit.child);
      covered += extents[i].length;
    }
    if (covered == 0) violation("map without an extent", audit.child);
    if (covered > audit.child.length) violation("extents beyond the request", audit.child);
  }
};

bool power_of_two(uint64_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

}  // namespace

int validate(const Geometry& geometry, const Request& request) {
  if (request.op == Op::flush) return 0;
  if (changes_data(request.op) && geometry.read_only) return EROFS;
  if (request.offset > geometry.size || request.length > geometry.size - request.offset)
    return ERANGE;
  const uint64_t mask = geometry.sector_size - 1;
  if (((request.offset | request.length) & mask) != 0) return EINVAL;
  if (request.op == Op::map && request.extents == nullptr) return EINVAL;
  if (request.op != Op::read && request.op != Op::write) return 0;
  uint64_t total = 0;
  for (int i = 0; i < request.segments; ++i) {
    if (request.data[i].iov_len > request.length - total) return EINVAL;
    total += request.data[i].iov_len;
  }
  return total == request.length ? 0 : EINVAL;
}

std::unique_ptr<Disk> make_checked(std::unique_ptr<Disk> lower) {
  return std::make_unique<Checked>(std::move(lower));
}

std::unique_ptr<Disk> make_audited(std::unique_ptr<Disk> lower) {
  return std::make_unique<Audited>(std::move(lower));
}

Result<> check_geometry(const Geometry& geometry) {
  const auto bad = [](std::string text) { return fail(Code::invalid, std::move(text)); };
  if (!power_of_two(geometry.sector_size) || geometry.sector_size < 512)
    return bad(
        fmt::format("sector size {} is not a power of two of at least 512", geometry.sector_size));
  if (!power_of_two(geometry.physical_sector_size) ||
      geometry.physical_sector_size < geometry.sector_size)
    return bad(fmt::format("physical sector size {} is not a power of two of at least {}",
                           geometry.physical_sector_size, geometry.sector_size));
  if (geometry.size < geometry.sector_size)
    return bad(fmt::format("{} bytes is smaller than one sector of {}", geometry.size,
                           geometry.sector_size));
  if (geometry.size % geometry.sector_size != 0)
    return bad(fmt::format("{} bytes is not a multiple of the sector size {}", geometry.size,
                           geometry.sector_size));
  if (geometry.size > static_cast<uint64_t>(INT64_MAX)) return bad("size is above 2^63-1 bytes");
  return {};
}

}  // namespace pv::blk
