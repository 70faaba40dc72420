// SPDX-License-Identifier: MIT
#include "serve/server.hpp"

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <malloc.h>

#include <fmt/format.h>

#include "base/control.hpp"
#include "base/dir_guard.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/mapped_file.hpp"
#include "base/rng.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "blk/registry.hpp"
#include "blk/state.hpp"
#include "front/front.hpp"
#include "front/nbd/server.hpp"
#include "front/vhost/config.hpp"
#include "front/vhost/server.hpp"
#include "serve/control_ops.hpp"
#include "serve/disk_object.hpp"
#include "serve/fault_wait.hpp"
#include "serve/power.hpp"
#include "serve/resize.hpp"
#include "serve/snap.hpp"
#include "serve/snapshot.hpp"
#include "serve/source.hpp"
#include "serve/vm_stop.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_drain_ns = 2 * k_ns_per_s;

const char* behaviour_name(blk::DiscardBehaviour behaviour) {
  constexpr const char* k_names[] = {"zeroes", "unspecified", "ignored"};
  return k_names[static_cast<int>(behaviour)];
}

// A path as the value of a URI's query (RFC 3986, section 2.3).
std::string percent_encoded(const std::string& path) {
  std::string text;
  for (char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (isalnum(byte) != 0 || strchr("/-._~", c) != nullptr)
      text += c;
    else
      text += fmt::format("%{:02X}", byte);
  }
  return text;
}

class DiskServer {
 public:
  DiskServer(const Object& object, Spec spec, Loop& loop)
      : object_(object),
        spec_(std::move(spec)),
        loop_(loop),
        source_(object.dir, loop),
        medium_(!spec_.ejected) {}
  ~DiskServer() {
    control_.reset();
    vm_stop_.reset();
    waits_.reset();
    snap_.reset();
    power_.reset();
    resizer_.reset();
    ops_.reset();
    front_.reset();
    gate_.reset();
    stack_.reset();  // hangs up on the storage daemons, which end with the source
  }

  Result<> open() {
    if (spec_.restart) TRY(count_in_file());
    // Where one before has died, its sockets still lie about; that of vhost-user is the keeper's.
    for (const char* socket : {"nbd.sock", "ctl.sock"})
      if (spec_.again) unlink(object_.path(socket).c_str());
    TRY_ASSIGN(std::unique_ptr<blk::Disk> bottom, source_.open(spec_));
    std::vector<blk::LayerSpec> layers;
    for (const std::string& text : spec_.layers) {
      TRY_ASSIGN(blk::LayerSpec layer, blk::parse_layer(text));
      // The log that is there is the one that our predecessor had begun.
      if (spec_.again && layer.name == "record") layer.params["append"] = "yes";
      layers.push_back(std::move(layer));
    }
    if (blk::base_needs(layers, blk::k_base_identity))
      bottom = source_.identified(std::move(bottom));
    const auto on_fault = [this] {
      if (waits_) waits_->fired();
      if (vm_stop_) vm_stop_->look_soon();
    };
    const blk::Env env{system_clock(), loop_,         &loop_,
                       fresh_seed(),   &source_,      object_.dir,
                       on_fault,       spec_.restart, !spec_.saved_state.empty()};
    TRY_ASSIGN(stack_, blk::build_stack(std::move(bottom), layers, env));
    if (!spec_.saved_state.empty() && !spec_.again)
      TRY(load_saved_state(*stack_, spec_.saved_state));
    gate_ = std::make_unique<FlushGate>(*stack_);
    TRY(open_fronts());
    home_ = std::make_unique<DirGuard>(loop_, object_.dir, [this] { stop(); });
    ops_ = std::make_unique<ControlOps>(*stack_, counters_, [this] { return live_state(); });
    resizer_ = std::make_unique<Resizer>(
        Resizer::Parts{loop_, *stack_, counters_, *front_, *ops_, [this] { return save_size(); }});
    waits_ = std::make_unique<FaultWaits>(loop_, *stack_);
    if (has_layer("mirror") || has_layer("history"))
      vm_stop_ = std::make_unique<VmStop>(loop_, *stack_, object_);
    power_ = std::make_unique<Power>(
        Power::Parts{loop_, *stack_, counters_, *front_, *ops_, has_layer("fault")});
    snap_ = std::make_unique<Snap>(Snap::Parts{loop_, *stack_, *gate_, counters_, *front_, *ops_,
                                               spec_, [this] { return saved_disk(); }});
    control_ = std::make_unique<ControlServer>(
        loop_,
        [this](ControlServer::ConnectionId id, const json& request, std::string raw, Reply reply) {
          on_request(id, request, std::move(raw), std::move(reply));
        },
        k_max_host_io);
    control_->on_abandoned([this](ControlServer::ConnectionId id) {
      resizer_->abandon(id);
      waits_->abandon(id);
    });
    control_->on_ended([this](ControlServer::ConnectionId id) {
      power_->ended(id);
      snap_->ended(id);
    });
    TRY(control_->listen(object_.path("ctl.sock")));
    return loop_.on_signals({SIGTERM, SIGINT}, [this](int) { stop(); });
  }

  Result<> count_in_file() {
    TRY_ASSIGN(counts_, MappedFile::open(object_.path("counters"), sizeof(blk::Counters::Block)));
    counters_.count_in(reinterpret_cast<blk::Counters::Block*>(counts_.data()));
    return {};
  }

  Result<> open_fronts() {
    front_ = std::make_unique<front::Fronts>();
    TRY_ASSIGN(Fd listener, listen_unix(object_.path("nbd.sock")));
    front_->add(std::make_unique<nbd::Server>(
        loop_, std::move(listener), *gate_, counters_,
        nbd::Export{object_.name, "provium disk " + object_.display(), stack_->geometry()}));
    if (spec_.vhost_user) {
      const bool by_door = spec_.vhost_door >= 0;
      Fd vhost(std::exchange(spec_.vhost_door, -1));
      if (!by_door) {
        TRY_ASSIGN(vhost, listen_unix(object_.path(k_vhost_socket)));
      }
      if (by_door) *spec_.vhost_offer = vhost::features_of(stack_->geometry());
      front_->add(std::make_unique<vhost::Server>(loop_, std::move(vhost), *gate_, counters_,
                                                  vhost::Identity{spec_.serial, spec_.host_key},
                                                  by_door));
    }
    return front_->start();
  }

  // What state.json says: the document and, for the next command, who we are.
  json state() const {
    const blk::Geometry& geometry = stack_->geometry();
    const ProcessId self = identify(getpid()).value_or(ProcessId{getpid(), 0});
    json state = {{"id", object_.name},
                  {"scope", object_.scope},
                  {"vm", object_.owner.empty() ? json(nullptr) : json(object_.owner)},
                  {"state", object_.owner.empty() ? "serving" : "attached"},
                  {"size_bytes", geometry.size},
                  {"sector_size", geometry.sector_size},
                  {"physical_sector_size", geometry.physical_sector_size},
                  {"read_only", geometry.read_only},
                  {"sector_shift", std::countr_zero(geometry.sector_size)},
                  {"fua", geometry.fua ? "honoured" : "ignored"},
                  {"discard", behaviour_name(geometry.discard)},
                  {"discard_granularity_bytes", geometry.discard_granularity},
                  {"reservations", has_layer("reserve")},
                  {"uuid", geometry.id == blk::DiskId{} ? json() : json(disk_id_text(geometry.id))},
                  {"serial", spec_.serial},
                  {"host_key", spec_.host_key.empty() ? json(nullptr) : json(spec_.host_key)},
                  {"source", source_json(spec_)},
                  {"transport", transport_name(spec_.vhost_user)},
                  {"uri", "nbd+unix:///?socket=" + percent_encoded(object_.path("nbd.sock"))},
                  {"control", object_.path("ctl.sock")},
                  {"pid", self.pid},
                  {"start_ticks", self.start_ticks},
                  {"image_path", source_.image_path()},
                  {"layers", spec_.layers}};
    if (spec_.vhost_user) state["vhost_socket"] = object_.path(k_vhost_socket);
    if (spec_.cdrom) state.update({{"cdrom", true}, {"medium", medium_}});
    return state;
  }

 private:
  void on_request(ControlServer::ConnectionId id, const json& request, std::string raw,
                  Reply reply) {
    const std::string op = get_string(request, "op");
    if (op.rfind("snap.", 0) == 0) return on_snap(id, op, request, std::move(reply));
    if (snap_->busy() && (op == "resize" || op == "power.freeze"))
      return reply(fail(Code::wrong_state, "a snapshot of the disk is under way"));
    if (snap_->still() && op != "info" && op != "stats")
      return snap_->later([this, id, request, raw, reply] { on_request(id, request, raw, reply); });
    if (op.rfind("power.", 0) == 0) return on_power(id, op, request, std::move(reply));
    if (op == "resize" && !power_->on())
      return reply(fail(Code::wrong_state, "a power cut is under way"));
    if (op == "resize") return resizer_->resize(request, std::move(reply));
    if (op == "eject") return reply(eject());
    if (op == "fault.wait") return waits_->wait(id, request, std::move(reply));
    if (op == "wait_resize") return resizer_->wait(id, request, std::move(reply));
    ops_->handle(request, std::move(raw), std::move(reply));
  }

  void on_power(ControlServer::ConnectionId id, const std::string& op, const json& request,
                Reply reply) {
    if (op == "power.check") return reply(power_->check(request));
    if (op == "power.cut") return power_->cut(id, request, std::move(reply));
    if (op != "power.freeze") return reply(fail(Code::invalid, "unknown op '" + op + "'"));
    if (resizer_->busy()) return reply(fail(Code::wrong_state, "a resize is under way"));
    reply(power_->freeze(id));
  }

  void on_snap(ControlServer::ConnectionId id, const std::string& op, const json& request,
               Reply reply) {
    if (op == "snap.flushes") return reply(snap_->flushes());
    if (op == "snap.save") return snap_->save(id, request, std::move(reply));
    if (op != "snap.prepare") return reply(fail(Code::invalid, "unknown op '" + op + "'"));
    if (!power_->on()) return reply(fail(Code::wrong_state, "a power cut is under way"));
    if (resizer_->busy()) return reply(fail(Code::wrong_state, "a resize is under way"));
    if (stopping_) return reply(fail(Code::wrong_state, "the disk is being closed"));
    reply(snap_->prepare(id));
  }

  json saved_disk() const {
    Spec spec = spec_;
    spec.ejected = !medium_;
    json saved = {{"v", k_saved_disk_version}, {"id", object_.name}, {"spec", spec_json(spec)}};
    saved["size_bytes"] = stack_->geometry().size;
    return saved;
  }

  bool has_layer(std::string_view name) const {
    const auto is = [&](const std::string& layer) {
      return layer.substr(0, layer.find(':')) == name;
    };
    return std::any_of(spec_.layers.begin(), spec_.layers.end(), is);
  }

  Result<> save_size() {
    const uint64_t size = stack_->geometry().size;
    if (spec_.size != 0) spec_.size = size;
    return save_keys(object_, {{"size_bytes", size}, {"source", source_json(spec_)}});
  }

  // The drive is the VM's; here only what becomes of the disc is remembered.
  Result<json> eject() {
    if (!spec_.cdrom) return fail(Code::unsupported_eject, "only a disc in a CD drive is ejected");
    medium_ = false;
    TRY(save_keys(object_, {{"medium", false}}));
    return json::object();
  }

  json live_state() const {
    json now = state();
    json layers;
    stack_->inspect(layers);
    if (const json* faults = find(layers, "faults")) now["faults"] = *faults;
    if (const json* record = find(layers, "record")) now["record"] = *record;
    if (const json* backend = find(layers, "backend")) {
      now["backend"] = *backend;
      now["type"] = get_string(*backend, "type");
    }
    now["connections"] = front_->connections();
    now["in_flight"] = counters_.in_flight();
    return now;
  }

  // Nobody new is let in, what is in flight gets a while, then the process ends.
  void stop() {
    if (front_) front_->stop();  // a second signal may come while the stack is put away
    if (std::exchange(stopping_, true)) return;
    static_cast<void>(
        stack_->control({{"op", "fault.stop"}, {"within_ms", k_drain_ns / k_ns_per_ms}}));
    waits_->end();
    if (counters_.in_flight() == 0 && !control_->has_unsent()) return put_away();
    deadline_ns_ = system_clock().now_ns() + k_drain_ns;
    wait_for_drain();
  }

  void wait_for_drain() {
    if (counters_.in_flight() == 0 || system_clock().now_ns() >= deadline_ns_) return put_away();
    loop_.after(k_ns_per_ms, [this] { wait_for_drain(); });
  }

  // An orderly end is no power cut: what a cache still holds goes to the image. It takes as long as
  // it takes; who cannot wait kills the server, which is a power cut.
  void put_away() {
    note_broken();
    if (snap_->sealed() || !stack_->control({{"op", "cache.held"}})) return loop_.stop();
    last_flush_.op = blk::Op::flush;
    last_flush_.flags = blk::k_internal;
    last_flush_.owner = this;
    last_flush_.done = [](blk::Request& request, int error) {
      auto& server = *static_cast<DiskServer*>(request.owner);
      if (error != 0)
        static_cast<void>(write_file_atomic(server.object_.path(k_lost_file),
                                            fmt::format("failed ({})", errno_name(error)), 0600));
      server.loop_.stop();
    };
    stack_->submit(last_flush_);
  }

  // Whoever closes the disk learns of it, also when nobody has asked before.
  void note_broken() const {
    json layers;
    stack_->inspect(layers);
    for (const char* name : {"record", "history", "mirror"}) {
      const json* layer = find(layers, name);
      if (!layer || get_string(*layer, "state") != "broken") continue;
      const std::string file = get_string(*layer, "file");
      static_cast<void>(write_file_atomic(
          object_.path(k_broken_file),
          fmt::format("its {}{}{} is broken since it could not be written ({})", name,
                      file.empty() ? "" : " ", file, get_string(*layer, "error")),
          0600));
      return;
    }
  }

  const Object& object_;
  Spec spec_;
  Loop& loop_;
  Source source_;
  MappedFile counts_;
  blk::Counters counters_;
  std::unique_ptr<blk::Disk> stack_;
  std::unique_ptr<FlushGate> gate_;
  std::unique_ptr<front::Fronts> front_;
  std::unique_ptr<ControlOps> ops_;
  std::unique_ptr<Resizer> resizer_;
  std::unique_ptr<FaultWaits> waits_;
  std::unique_ptr<VmStop> vm_stop_;
  std::unique_ptr<Power> power_;
  std::unique_ptr<Snap> snap_;
  std::unique_ptr<ControlServer> control_;
  bool medium_;  // of a CD drive
  blk::Request last_flush_;
  bool stopping_ = false;
  uint64_t deadline_ns_ = 0;
  std::unique_ptr<DirGuard> home_;
};

}  // namespace

Result<> run_server(const Object& disk, Spec spec, const std::function<void(const json&)>& ready) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of one request
  TRY_ASSIGN(const std::unique_ptr<Loop> loop, Loop::create());
  const bool again = spec.again;
  auto server = std::make_unique<DiskServer>(disk, std::move(spec), *loop);
  TRY(server->open());
  json state = server->state();
  if (again) {
    // The rest is as it was: commands have added keys of their own.
    TRY_ASSIGN(const json before, disk.load());
    TRY(save_keys(disk, {{"pid", state["pid"]},
                         {"start_ticks", state["start_ticks"]},
                         {"restarts", get_u64(before, "restarts") + 1}}));
  } else {
    TRY(disk.save(state));
  }
  malloc_trim(0);  // what the command line needed, the server does not
  ready(state);
  return loop->run();
}

}  // namespace pv::serve
