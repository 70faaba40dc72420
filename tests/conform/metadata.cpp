// SPDX-License-Identifier: MIT
// If this fails, a layer hides what the disk below it says of itself (sector sizes, id, discard
// behaviour, a new size, a command for a layer further in), or a layer or back end was added that
// the conformance suite never runs.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "support.hpp"

namespace {

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

Geometry unusual() {
  Geometry geometry;
  geometry.size = 4 << 20;
  geometry.sector_size = 4096;
  geometry.physical_sector_size = 8192;
  geometry.discard_granularity = 65'536;
  geometry.discard = DiscardBehaviour::unspecified;
  geometry.fua = false;
  for (size_t i = 0; i < geometry.id.size(); ++i) geometry.id[i] = static_cast<uint8_t>(i + 1);
  return geometry;
}

// A disk in memory that can be resized and that answers every command.
struct Bottom final : Forward {
  Geometry said = unusual();
  explicit Bottom(std::unique_ptr<Disk> memory) : Forward(std::move(memory)) {}
  const Geometry& geometry() const override { return said; }
  Result<json> control(const json& request) override {
    return json{{"bottom", get_string(request, "op")}};
  }
  Result<> resize(uint64_t size) override {
    said.size = size;
    return {};
  }
};

std::unique_ptr<Bottom> unusual_disk() {
  Geometry roomy = unusual();
  roomy.size *= 2;
  return std::make_unique<Bottom>(*make_memory_disk(roomy));
}

// Further images are as unusual; files of a layer's own are files.
struct UnusualOpener final : Opener {
  FileOpener files;
  explicit UnusualOpener(Loop& loop) : files(loop, unusual()) {}
  Result<std::unique_ptr<Disk>> image(const std::string&, bool, const std::string&) override {
    return unusual_disk();
  }
  Result<AsyncIo*> async_io() override { return files.async_io(); }
};

// The stack of one layer, over the unusual disk.
struct Alone {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  UnusualOpener opener{*loop};
  Bottom* bottom = nullptr;
  std::unique_ptr<Disk> disk;

  explicit Alone(const StackRow& row) {
    auto lowest = unusual_disk();
    bottom = lowest.get();
    for (const char* file : row.files) {
      std::ofstream(dir.path(file)).close();
      std::filesystem::resize_file(dir.path(file), unusual().size);
    }
    write_key(dir);
    std::string text = row.layers.front();
    for (size_t at = 0; (at = text.find('@', at)) != std::string::npos; ++at)
      text.replace(at, 1, dir.path());
    const std::vector<LayerSpec> layers = {*parse_layer(text)};
    auto built =
        build_stack(std::move(lowest), layers, {system_clock(), *loop, loop.get(), 0, &opener});
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
    disk = std::move(*built);
  }
};

// What a geometry says otherwise than another one, without what the row declares to change.
std::vector<std::string> differences(const Geometry& said, const Geometry& below,
                                     uint32_t declared) {
  std::vector<std::string> found;
  const auto look = [&](const char* name, bool same, uint32_t change) {
    if (!same && (declared & change) == 0) found.emplace_back(name);
  };
  look("size", said.size == below.size, k_new_size);
  look("sector_size", said.sector_size == below.sector_size, 0);
  look("physical_sector_size", said.physical_sector_size == below.physical_sector_size,
       k_new_physical);
  look("discard_granularity", said.discard_granularity == below.discard_granularity,
       k_new_granularity);
  look("discard", said.discard == below.discard, k_new_discard);
  look("fua", said.fua == below.fua, k_new_fua);
  look("read_only", said.read_only == below.read_only, k_new_read_only);
  look("id", said.id == below.id, k_new_id);
  return found;
}

std::string layer_of(const StackRow& row) {
  return row.layers.size() == 1 ? parse_layer(row.layers.front())->name : "";
}

}  // namespace

TEST_CASE("the matrix holds every layer and every back end", "[conform]") {
  std::set<std::string> alone, backends;
  for (const StackRow& row : stacks()) alone.insert(layer_of(row));
  for (const LayerRow& layer : layers()) {
    INFO("a layer without a line of its own in stacks() of tests/conform/stacks.cpp: "
         << layer.name);
    CHECK(alone.count(layer.name) == 1);
  }
  for (const Combination& at : combinations()) backends.insert(at.backend);
  for (const std::string& backend : backend_names()) CHECK(backends.count(backend) == 1);
  const std::filesystem::path folder = "lib/blk/backend";
  if (!std::filesystem::exists(folder)) return;  // run from elsewhere than the project's folder
  const std::regex maker("make_([a-z]+)_disk");
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".hpp") continue;
    std::ifstream file(entry.path());
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::smatch match;
    if (!std::regex_search(text, match, maker)) continue;
    INFO("a back end without a line in combinations(): " << match[1]);
    CHECK(backends.count(match[1]) == 1);
  }
}

TEST_CASE("every layer hands on the metadata that it does not change on purpose", "[conform]") {
  for (const StackRow& row : stacks()) {
    if (row.layers.size() != 1) continue;
    INFO(row.name);
    Alone alone(row);
    CHECK(differences(alone.disk->geometry(), alone.bottom->said, row.changes) ==
          std::vector<std::string>{});
    const auto answer = alone.disk->control(json{{"op", "unheard.of"}});
    CHECK((answer && get_string(*answer, "bottom") == "unheard.of"));
    json shown;
    alone.disk->inspect(shown);
    CHECK(find(shown, "backend") != nullptr);
    const auto resized = alone.disk->resize(6 << 20);
    if ((row.changes & k_no_resize) != 0) {
      REQUIRE_FALSE(resized);
      CHECK(resized.error().code == Code::unsupported);
      CHECK(alone.bottom->said.size == unusual().size);
    } else {
      CHECK(resized);
    }
    // Where nothing reaches the back end, its size stays as it is.
    const uint32_t own_size = row.below == Below::never ? uint32_t{k_new_size} : 0U;
    CHECK(differences(alone.disk->geometry(), alone.bottom->said, row.changes | own_size) ==
          std::vector<std::string>{});
  }
}

TEST_CASE("each difference of metadata is noticed unless it was declared", "[conform]") {
  const std::pair<void (*)(Geometry&), uint32_t> changes[] = {
      {[](Geometry& g) { g.size += 4096; }, k_new_size},
      {[](Geometry& g) { g.physical_sector_size = 4096; }, k_new_physical},
      {[](Geometry& g) { g.discard_granularity = 4096; }, k_new_granularity},
      {[](Geometry& g) { g.discard = DiscardBehaviour::zeroes; }, k_new_discard},
      {[](Geometry& g) { g.fua = true; }, k_new_fua},
      {[](Geometry& g) { g.read_only = true; }, k_new_read_only},
      {[](Geometry& g) { g.id = {}; }, k_new_id},
  };
  for (const auto& [change, declared] : changes) {
    Geometry other = unusual();
    change(other);
    CHECK(differences(other, unusual(), 0).size() == 1);
    CHECK(differences(other, unusual(), declared).empty());
  }
  Geometry other = unusual();
  other.sector_size = 512;
  CHECK(differences(other, unusual(), ~0U).size() == 1);
}
