// SPDX-License-Identifier: MIT
// The network cards of a running VM: plugged into QEMU and taken out of it, their cables, and what
// the guest is told about them. The guest is told again whenever it comes back from a reset. Part
// of the supervisor, on its thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/control.hpp"
#include "base/loop.hpp"
#include "vm/lan/nic.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/supervisor/qmp.hpp"

namespace pv::vm {

class Nics {
 public:
  using Reply = ControlServer::Reply;
  using Done = std::function<void(Result<> result)>;

  // `qmp` is there before anything but start() is called.
  Nics(std::string vm, Loop& loop, std::unique_ptr<Qmp>& qmp, GuestRuns& runs)
      : vm_(std::move(vm)), loop_(loop), qmp_(qmp), runs_(runs) {}

  // Those that QEMU is started with, and their slots.
  void start(const std::vector<NicSpec>& nics, const std::vector<size_t>& slots);
  // [{"slot", …what nic_to_json() says}]
  json list() const;
  bool busy() const;
  // Takes the cable out of those whose lan is gone.
  void cut_loose();
  bool has_slot(size_t slot) const;

  // Puts a card in: {"slot"}. The guest has not been told of it yet.
  void plug(const NicSpec& nic, size_t slot, uint64_t timeout_ns, const Reply& reply);
  // Takes it out: {"released":true} after the guest has let go of it, else false and "why".
  void unplug(const std::string& lan, uint64_t timeout_ns, const Reply& reply);
  void set_link(const std::string& lan, bool up, uint64_t timeout_ns, const Reply& reply);
  // Tells the guest of all cards, with what has changed of this one. One telling at a time: those
  // who ask meanwhile share the next.
  void configure(const NicSpec& nic, uint64_t timeout_ns, Done done);
  // The same for a guest that has just come up; `done` is called at once when there are no cards.
  void bring_up(uint64_t timeout_ns, Done done);

  void on_event(const std::string& event, const json& data);
  // The guest's agent answers, perhaps after a reset; `done` is called when it has been told.
  void on_agent_ready(Done done);
  // Answers everybody who waits.
  void fail_all(const Error& error);

 private:
  struct Nic {
    NicSpec spec;
    size_t slot = 0;
    bool plugged = false;  // QEMU has both halves
    TimerId timer = 0;     // while somebody waits for its release
    std::vector<Reply> releases;
  };
  void add_device(const std::string& lan, uint64_t timeout_ns, const Reply& reply);
  void apply_link(const Nic& nic, uint64_t timeout_ns, JsonReply reply);
  void released(const std::string& lan);
  void kept(const std::string& lan, const std::string& why);
  void tell_guest();
  void told(std::vector<Done> waiting, Result<> result);
  Result<> verdict(const std::vector<std::string>& argv, const Result<json>& status) const;

  const std::string vm_;
  Loop& loop_;
  std::unique_ptr<Qmp>& qmp_;
  GuestRuns& runs_;
  std::map<std::string, Nic> nics_;  // by lan
  std::vector<Done> waiting_;        // for the next telling
  bool telling_ = false, tell_again_ = false;
  bool guest_knows_nothing_ = false;  // it was reset
  uint64_t tell_ns_ = 0;              // how long a telling may take
};

}  // namespace pv::vm
