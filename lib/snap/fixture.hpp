// SPDX-License-Identifier: MIT
// Snapshots that are built once and kept: a fixture is what a builder, any command, leaves running.
// Its key covers the builder's words and the files that they name, the files and texts that were
// given, the profile (kernel and initial RAM disk by content, command line) and the versions of
// QEMU and of these tools, so whatever changes makes another fixture. The cache is shared by all
// processes of a user: one lock for each key, entries appear whole, the least recently used go
// first when it has grown too large.
//
//   ROOT/NAME-KEY/      a snapshot (bundle.hpp)
//   ROOT/NAME-KEY.lock  held while it is built; its time is when it was last used
//   ROOT/content/…      hashes of files that have not changed since
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "snap/bundle.hpp"

namespace pv::snap {

struct Fixture {
  std::string name;
  std::vector<std::string> keys;   // further texts that it depends on
  std::vector<std::string> files;  // further files
  std::string profile;             // "" for tiny, where that is built
  std::string config_file;
  std::vector<std::string> builder;
};

// Where it is, whether or not it is there: $PV_FIXTURE_DIR, else `fixtures` in the cache
// ($PV_CACHE_DIR, else the user's).
struct FixturePlace {
  std::string root;
  std::string key;  // 16 hexadecimal digits
  std::string dir;
};
Result<FixturePlace> find_fixture(const RunDir& run, const Fixture& fixture);

struct Fetched {
  Bundle bundle;
  bool hit = false;
};
// The one that is there and can be restored here, or a new one: `build` makes a snapshot in the
// directory it is given. Others who want the same one wait.
Result<Fetched> fetch_fixture(const RunDir& run, const FixturePlace& place,
                              const std::function<Result<>(const std::string& dir)>& build,
                              const Deadline& deadline);

// What a builder's last words name, or the only VM of the scope, becomes the snapshot `dir`.
Result<> build_fixture(const RunDir& run, const std::vector<std::string>& builder,
                       const std::string& dir, const Deadline& deadline);

// The `snap` objects of all entries, with "fixture", "key", "used" (a UTC time) and, where
// it cannot be restored here, "problem"; the least recently used first.
Result<std::vector<json>> list_fixtures(const RunDir& run);
// Code::in_use while VMs run on it.
Result<> delete_fixture(const json& entry);
// $PV_FIXTURE_MAX, or 20 GiB.
Result<uint64_t> max_fixture_bytes();
// Deletes what has not been used for longest until the rest fits.
Result<> trim_fixtures(const RunDir& run);

}  // namespace pv::snap
