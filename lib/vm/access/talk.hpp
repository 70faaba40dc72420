// SPDX-License-Identifier: MIT
// What the two directions of guest_files.hpp share: the conversation with the script in the guest,
// a running hash, and the document.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/hash.hpp"
#include "base/line_channel.hpp"
#include "vm/access/files.hpp"
#include "vm/access/stream.hpp"

namespace pv::vm {

// What `pv-runner hash` prints of the same bytes.
class GuestHash {
 public:
  GuestHash();
  void add(std::string_view bytes);
  std::string text() const;

 private:
  std::shared_ptr<void> state_;
};

// One transfer's talk with its script: lines to it and answers from it, with the events of the
// command's own end beside them.
class ScriptTalk {
 public:
  // `port` is the index of the port for the conversation.
  ScriptTalk(GuestStream& stream, size_t port, const Transfer& transfer);

  int fd() const;
  int control() const { return stream_.control(); }
  const Deadline& deadline() const { return deadline_; }
  Result<> tell(std::string_view line);
  // Takes what has come on fd(); answers are then in next().
  Result<> receive();
  // The words after "ok"; "no REASON" is the error.
  Result<std::optional<std::string>> next();
  // Waits for the next answer.
  Result<std::string> answer();
  // The command has ended while it was still needed: why.
  Error ended();
  bool receive_last();
  Error refused(std::string_view reason) const;
  Error late() const;

 private:
  GuestStream& stream_;
  size_t port_;
  const Transfer& transfer_;
  Deadline deadline_;
  LineBuffer lines_;
};

json transfer_document(const Transfer& transfer, const char* direction, uint64_t bytes,
                       const std::string& checksum, uint64_t started_ns);

// Bytes that a pass moves at once.
constexpr size_t k_transfer_chunk = 256 << 10;

}  // namespace pv::vm
