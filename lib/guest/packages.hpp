// SPDX-License-Identifier: MIT
// Which packages a guest is made of, and their files in the cache. Resolving costs apt a second,
// so its outcome is kept until the machine's package lists change. The caller holds the lock.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "guest/apt.hpp"
#include "guest/cache.hpp"

namespace pv::guest {

// The three things a guest needs, each taken whole from one place.
enum class Part { kernel, busybox, agent };
constexpr Part k_parts[] = {Part::kernel, Part::busybox, Part::agent};
const char* part_name(Part part);

struct PartPackages {
  Part part;
  std::vector<Package> packages;
};

class PackageStore {
 public:
  PackageStore(const Cache& cache, std::function<void(std::string_view)> progress);

  // Packages for all parts; without the kernel's when `kernel` is "". `kernel` may be a package
  // that only depends on a real kernel. `fresh` asks apt even when the answer is known.
  Result<std::vector<PartPackages>> resolve(const std::string& kernel, bool fresh,
                                            const Deadline& deadline);

  // Makes sure that these are in the cache.
  Result<> fetch(const std::vector<Package>& packages, const Deadline& deadline);
  // New package lists: the remedy when the servers no longer have what the old ones promise.
  Result<> refresh(const Deadline& deadline) { return apt_.refresh(deadline); }
  bool have(const Package& package) const;
  bool have_all(const std::vector<Package>& packages) const;

  // Unpacks one into `root`.
  Result<> unpack(const Package& package, const std::string& root, const Deadline& deadline) const;

 private:
  Result<std::vector<PartPackages>> ask_apt(const std::string& kernel, const Deadline& deadline);
  std::vector<PartPackages> recall(const std::string& kernel, const std::string& stamp) const;
  void remember(const std::string& kernel, const std::vector<PartPackages>& parts) const;

  const Cache& cache_;
  std::function<void(std::string_view)> progress_;
  Apt apt_;
};

}  // namespace pv::guest
