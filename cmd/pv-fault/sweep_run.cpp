// SPDX-License-Identifier: MIT
#include "sweep_run.hpp"

#include <fcntl.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "base/text.hpp"
#include "blk/fault/journal.hpp"
#include "blk/params.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "sweep_rule.hpp"

namespace pv::faultcmd {
namespace {

// What an outcome is, in the order in which it is asked: a command that does not end, or not by
// itself, says nothing of the disk; a fault that did not happen says nothing of the command.
const char* outcome_of(const Ended& command, const std::optional<Ended>& check, uint64_t fired) {
  if (command.timed_out || (check && check->timed_out)) return "hung";
  if (command.status.signal != 0) return "crashed";
  if (check && !check->succeeded()) return "corrupted";
  if (fired == 0) return "not_reached";
  return command.succeeded() ? "recovered" : "error_reported";
}

json fault_of(const json& event) {
  json fault = json::object();
  for (const char* key : {"op", "offset_bytes", "length_bytes", "delivered"})
    if (const json* value = find(event, key)) fault[key] = *value;
  return fault;
}

}  // namespace

SweepRun::SweepRun(Loop& loop, const SweepPlan& plan, uint64_t k, Done done)
    : loop_(loop),
      plan_(plan),
      k_(k),
      done_(std::move(done)),
      dir_(fmt::format("{}/{}", plan.dir, k)) {}

SweepRun::~SweepRun() {
  program_.reset();
  close();
}

void SweepRun::ask_to_end() {
  if (program_) program_->ask_to_end();
}

std::string SweepRun::overlay_path() const {
  return fmt::format("{}/{}.cow", plan_.dir, k_);
}

Result<> SweepRun::start() {
  TRY(make_dir(dir_));
  TRY(open_disk());
  TRY_ASSIGN(serve::DiskClient client, connect());
  TRY_ASSIGN(const json reply,
             client.call({{"op", "fault.add"}, {"rule", rule_for(plan_.rule, k_)}}));
  rule_id_ = get_string(reply["rule"], "id");
  TRY_ASSIGN(program_,
             Program::start(loop_, command_line(), environment(), plan_.run_timeout_ns,
                            [this](Result<Ended> ended) { after_command(std::move(ended)); }));
  return {};
}

Result<> SweepRun::open_disk() {
  serve::Spec spec = plan_.spec;
  if (plan_.overlay) {
    blk::LayerSpec overlay;
    overlay.name = "cow";
    if (plan_.keep) overlay.params["file"] = overlay_path();
    spec.layers.push_back(blk::layer_text(overlay));
  }
  TRY(serve::complete(spec, plan_.disk));
  TRY_ASSIGN(run_dir_, RunDir::open(fmt::format("{}-{}", plan_.scope, k_)));
  TRY_ASSIGN(disk_, run_dir_->create("disk", "", plan_.disk));
  TRY_ASSIGN(const json state,
             serve::start_server(*disk_, spec, Deadline::in_ns(plan_.talk_timeout_ns)));
  server_ = static_cast<pid_t>(get_u64(state, "pid"));
  uri_ = get_string(state, "uri");
  return {};
}

Result<serve::DiskClient> SweepRun::connect() const {
  auto client = serve::DiskClient::connect(*disk_, Deadline::in_ns(plan_.talk_timeout_ns));
  if (client) return client;
  Error error = client.error();
  error.message = fmt::format("run {}: {}", k_, error.message);
  return fail(std::move(error));
}

std::vector<std::string> SweepRun::environment() const {
  return {"PV_DISK=" + plan_.disk, "PV_SCOPE=" + run_dir_->scope(),
          "PV_URI=" + uri_,        "PV_SOCKET=" + disk_->path("nbd.sock"),
          "PV_SWEEP_DIR=" + dir_,  fmt::format("PV_SWEEP_K={}", k_)};
}

std::vector<std::string> SweepRun::command_line() const {
  const std::pair<std::string_view, std::string> words[] = {{"{uri}", uri_},
                                                            {"{disk}", plan_.disk},
                                                            {"{k}", std::to_string(k_)},
                                                            {"{socket}", disk_->path("nbd.sock")}};
  std::vector<std::string> argv = plan_.argv;
  for (std::string& argument : argv) {
    for (const auto& [word, value] : words)
      for (size_t at = 0; (at = argument.find(word, at)) != std::string::npos; at += value.size())
        argument.replace(at, word.size(), value);
  }
  return argv;
}

void SweepRun::after_command(Result<Ended> ended) {
  program_.reset();
  if (!ended) return done_(fail(ended.error()));
  command_ = std::move(*ended);
  if (auto examined = examine(); !examined) return done_(fail(examined.error()));
  if (plan_.check.empty()) return report();
  check();
}

// How often the rule matched and fired, which it tells as it is cleared, and what it did first.
Result<> SweepRun::examine() {
  TRY_ASSIGN(serve::DiskClient client, connect());
  TRY_ASSIGN(const json reply, client.call({{"op", "fault.clear"}, {"id", rule_id_}}));
  for (const json& rule : reply["cleared"]) {
    matched_ = get_u64(rule, "matched");
    fired_ = get_u64(rule, "fired");
  }
  TRY_ASSIGN(const json where, client.call({{"op", "fault.journal"}}));
  TRY_ASSIGN(const json events, blk::read_journal(where, 0, 1));
  for (const json& event : events) fault_ = fault_of(event);
  return {};
}

void SweepRun::check() {
  std::vector<std::string> env = environment();
  env.push_back(fmt::format("PV_SWEEP_STATUS={}", command_.shell_status()));
  auto started = Program::start(loop_, {"sh", "-c", plan_.check}, std::move(env),
                                plan_.run_timeout_ns, [this](Result<Ended> ended) {
                                  program_.reset();
                                  if (!ended) return done_(fail(ended.error()));
                                  check_ = std::move(*ended);
                                  report();
                                });
  if (!started) return done_(fail(started.error()));
  program_ = std::move(*started);
}

void SweepRun::report() {
  SweepReport report;
  report.outcome = outcome_of(command_, check_, fired_);
  report.fired = fired_ != 0;
  report.command_succeeded = command_.succeeded();
  idle_ = report.outcome != "hung";
  kept_ = plan_.keep && report.outcome == "corrupted";
  report.document = {{"k", k_},
                     {"outcome", report.outcome},
                     {"fired", fired_},
                     {"matched", matched_},
                     {"fault", fault_},
                     {"command", command_.to_json()},
                     {"check", check_ ? check_->to_json() : json()}};
  if (kept_) report.document["kept"] = overlay_path();
  done_(std::move(report));
}

// The disk, what the programs have made in the scope, and every file but an overlay to keep. The
// server was started by us, and is ours to reap.
void SweepRun::close() {
  if (run_dir_) {
    // Nobody wants what a server still has to do when its client was killed, and it would wait.
    if (const auto server = identify(server_); server && !idle_)
      static_cast<void>(terminate(*server, 0));
    for (const Object& disk : run_dir_->list("disk"))
      if (disk.scope == run_dir_->scope()) static_cast<void>(serve::close_disk(*run_dir_, disk));
    if (server_ != 0) waitpid(server_, nullptr, WNOHANG);
    end_strays("PV_SWEEP_DIR=" + dir_);
    for (const Object& vm : run_dir_->list("vm"))
      if (vm.scope == run_dir_->scope()) run_dir_->remove(vm);
  }
  if (plan_.keep && !kept_) unlink(overlay_path().c_str());
  remove_tree(dir_);
}

}  // namespace pv::faultcmd
