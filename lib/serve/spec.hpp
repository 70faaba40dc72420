// SPDX-License-Identifier: MIT
// What a disk server is to serve: one source, a geometry, the layers. Built from flags or from a
// document, checked before any process is started, and handed to the server as it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::serve {

struct Spec {
  std::string type;      // "image", "scratch", "template", "memory", "uri", "blockdev"
  std::string path;      // image, template: absolute
  std::string uri;       // uri: as typed
  std::string blockdev;  // blockdev: an object of QEMU's, as typed
  std::string format;    // image, template, uri: "raw", "qcow2", …
  std::string key_file;  // what opens an encrypted image: absolute
  bool direct = false;   // past the page cache
  uint64_t reconnect_ns = 5'000'000'000;  // how long requests wait for a back end that is gone
  uint64_t size = 0;                      // scratch, memory: bytes
  uint32_t sector_size = 512;
  uint32_t physical_sector_size = 0;  // 0: as sector_size, at least
  bool read_only = false;
  bool cdrom = false;               // a disc in a drive: read-only, sectors of 2048
  bool vhost_user = false;          // its VM takes it by vhost-user; NBD is served all the same
  blk::DiskId id{};                 // all zero: none
  bool base_read_only = false;      // because a layer keeps the changes elsewhere
  std::string serial;               // at most 20 characters
  std::string host_key;             // the host that the VM is, for reservations
  std::vector<std::string> layers;  // as typed, outermost first
  bool no_fault = false;            // without the fault layer, which is added otherwise
  bool ejected = false;             // a drive whose disc has been taken out
  bool restart = false;             // the server is started again when it was killed
  bool again = false;               // ... and this is such a one
  int vhost_door = -1;              // clients come from the keeper (keeper.hpp), not from a socket
  uint64_t* vhost_offer = nullptr;  // ... which is told here what they are offered
  std::string saved_state;          // a folder of a snapshot: what its layers remember
};

// How flags name a source: exactly one may be set.
struct SourceFlags {
  std::string image, scratch, template_path, memory, blockdev, format, key_file;
  bool any() const {
    return !image.empty() || !scratch.empty() || !template_path.empty() || !memory.empty() ||
           !blockdev.empty();
  }
};

// Fills the source part of a spec. Code::usage with what was given when it is none or several.
Result<> set_source(Spec& spec, const SourceFlags& flags);

// The same from the `source` of a `disk` document.
Result<> set_source(Spec& spec, const json& source);

// Sector sizes, serial (a longer one than virtio-blk carries is refused), layer names and keys; the
// fault layer is added outermost when nobody named it.
Result<> complete(Spec& spec, const std::string& id);

// "nbd" or "vhost-user".
const char* transport_name(bool vhost_user);

// A UUID, or 32 hexadecimal digits. All zero is Code::usage: that means "none".
Result<blk::DiskId> parse_disk_id(std::string_view text);
// As a UUID.
std::string disk_id_text(const blk::DiskId& id);

// The `source` object of a document.
json source_json(const Spec& spec);

}  // namespace pv::serve
