// SPDX-License-Identifier: MIT
// If this fails, a request of a guest that names one page several times gets a layer to keep wrong
// data, or to call a healthy disk damaged.
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr uint32_t k_page = 4096;

// Reads or writes three pages, of which the first and the last are the same memory.
BlkReply run_aliased(Rig& rig, const BlkRequest& request) {
  const uint16_t head = must(rig.blk->prepare(request));
  Queue& queue = rig.blk->queue();
  Descriptor* parts[4];  // header and data
  uint16_t at = head;
  for (Descriptor*& part : parts) {
    part = &queue.descriptor(at);
    at = part->next;
  }
  parts[3]->addr = parts[1]->addr;
  queue.publish(head);
  queue.kick();
  return must(rig.blk->finish(head));
}

}  // namespace

TEST_CASE("vhost: a page that a request names twice spoils nothing that a layer keeps", "[vhost]") {
  TempDir dir;
  const std::string second = dir.path("second");
  REQUIRE(write_file_atomic(second, std::string(8 << 20, '\0')));
  for (const std::string& layer :
       {std::string("readcache"), "history:file=" + dir.path("history"), "mirror:with=" + second,
        "record:file=" + dir.path("log"), std::string("stats")}) {
    CAPTURE(layer);
    Rig rig({.file = true, .layers = {layer}});
    const std::string model = random_bytes(rig.rng, 64 * k_page);
    CHECK(rig.write(0, model).status == k_ok);
    for (uint64_t page = 0; page < 60; page += 3) {
      CHECK(run_aliased(rig,
                        {.type = blk_type::in, .sector = page * 8, .in = {k_page, k_page, k_page}})
                .status == k_ok);
    }
    for (int round = 0; round < 2; ++round) CHECK((rig.ours.content(0, model.size()) == model));
    if (const auto verify = rig.ours.control({{"op", "verify.status"}}))
      CHECK(verify->at("verify").at("mismatches") == 0);
  }
}

}  // namespace pv::test::vhost
