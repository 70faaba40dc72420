// SPDX-License-Identifier: MIT
#include "lan/server.hpp"

#include <csignal>
#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>

#include <fmt/format.h>

#include "base/control.hpp"
#include "base/dir_guard.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "lan/port.hpp"

namespace pv::lan {
namespace {

constexpr const char* k_log = "log";
constexpr PortId k_max_port = 254;

json counters_to_json(const PortCounters& counters) {
  return {{"frames_in", counters.frames_in},
          {"bytes_in", counters.bytes_in},
          {"frames_out", counters.frames_out},
          {"bytes_out", counters.bytes_out},
          {"dropped",
           {{"link_down", counters.dropped.link_down},
            {"loss", counters.dropped.loss},
            {"queue_full", counters.dropped.queue_full},
            {"slow_receiver", counters.slow_receiver},
            {"malformed", counters.malformed}}}};
}

class LanServer {
 public:
  LanServer(const Object& lan, Loop& loop)
      : lan_(lan),
        loop_(loop),
        home_(loop, lan.dir, [&loop] { loop.stop(); }),
        switch_(system_clock(), loop),
        control_(loop, [this](ControlServer::ConnectionId, const json& request, const std::string&,
                              const ControlServer::Reply& reply) { reply(serve(request)); }) {}

  Result<> open() {
    TRY(control_.listen(lan_.path(k_control_socket)));
    return loop_.on_signals({SIGTERM, SIGINT}, [this](int) { loop_.stop(); });
  }

 private:
  Result<json> serve(const json& request) {
    const std::string op = get_string(request, "op");
    if (op == "status") return status();
    const uint64_t number = get_u64(request, "port");
    if (number == 0 || number > k_max_port) return fail(Code::invalid, "no such port");
    const auto port = static_cast<PortId>(number);
    if (op == "add") return add(port);
    if (op == "remove") {
      ports_.erase(port);
    } else if (op == "link") {
      switch_.set_link(port, link_from_json(request));
    } else {
      return fail(Code::invalid, fmt::format("unknown op '{}'", printable(op)));
    }
    return json::object();
  }

  Result<json> add(PortId port) {
    if (ports_.count(port) != 0) return fail(Code::invalid, "the port is in use");
    TRY_ASSIGN(ports_[port], Port::open(loop_, switch_, port, port_socket(lan_, port)));
    return json::object();
  }

  json status() const {
    json ports = json::object();
    for (const auto& [id, port] : ports_) {
      json& entry = ports[std::to_string(id)] = counters_to_json(switch_.counters(id));
      entry["connected"] = port->connected();
    }
    return {{"ports", std::move(ports)}};
  }

  const Object& lan_;
  Loop& loop_;
  DirGuard home_;
  Switch switch_;
  std::map<PortId, std::unique_ptr<Port>> ports_;
  ControlServer control_;
};

int run_server(const Object& lan, Fd ready) {
  prctl(PR_SET_NAME, "pv-lan");
  signal(SIGPIPE, SIG_IGN);
  const auto report = [&](const json& message) {
    static_cast<void>(write_all(ready.get(), to_line(message)));
    ready.reset();
  };
  const auto refuse = [&](const Error& error) {
    report({{"error", error_to_json(error)}});
    return exit_class(error.code);
  };
  auto loop = Loop::create();
  if (!loop) return refuse(loop.error());
  LanServer server(lan, **loop);
  if (auto opened = server.open(); !opened) return refuse(opened.error());
  malloc_trim(0);  // what the command line needed, the server does not
  report(json::object());
  const auto ran = (*loop)->run();
  return ran ? 0 : exit_class(ran.error().code);
}

}  // namespace

std::string port_socket(const Object& lan, PortId port) {
  return lan.path(fmt::format("p{}.sock", port));
}

json link_to_json(const LinkSettings& settings) {
  return {{"up", settings.up},
          {"latency_ns", settings.latency_ns},
          {"jitter_ns", settings.jitter_ns},
          {"loss", settings.loss},
          {"seed", std::to_string(settings.seed)}};
}

LinkSettings link_from_json(const json& object) {
  LinkSettings settings;
  settings.up = get_bool(object, "up", true);
  settings.latency_ns = get_u64(object, "latency_ns");
  settings.jitter_ns = get_u64(object, "jitter_ns");
  if (const json* loss = find(object, "loss"); loss && loss->is_number())
    settings.loss = loss->get<double>();
  settings.seed = parse_seed("seed", get_string(object, "seed", "0")).value_or(0);
  return settings;
}

Result<ProcessId> start_server(const Object& lan, const Deadline& deadline) {
  TRY_ASSIGN(const Daemon daemon, start_daemon(lan.path(k_log), [&](Fd ready) {
               return run_server(lan, std::move(ready));
             }));
  const auto message = read_ready(daemon, deadline);
  if (!message) {
    static_cast<void>(terminate(daemon.id, 0));
    return fail(Code::timeout, "the switch of the lan does not come up in time");
  }
  const auto answer = parse_json(*message);
  if (!answer)
    return fail(Code::server_dead, fmt::format("the switch of the lan died while starting: {}",
                                               tail_of_file(lan.path(k_log), 4096)));
  if (const json* error = find(*answer, "error")) return fail(error_from_json(*error));
  return daemon.id;
}

}  // namespace pv::lan
