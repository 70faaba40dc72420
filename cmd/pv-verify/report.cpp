// SPDX-License-Identifier: MIT
// report: the verdict on a disk that is compared, for programs, for people, and as a page of HTML.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/line_journal.hpp"
#include "serve/client.hpp"
#include "target/disk_target.hpp"
#include "verbs.hpp"
#include "verify/report/page.hpp"

namespace pv::verifycmd {
namespace {

constexpr size_t k_report_at_once = 4096;
constexpr size_t k_max_lines = 200'000;  // of a journal: the newest

struct ReportOptions {
  std::string disk, html;
  bool hex = false;
};

Result<json> read_all_of(const json& where, uint64_t& dropped) {
  json all = json::array();
  uint64_t since = get_u64(where, "last") > k_max_lines ? get_u64(where, "last") - k_max_lines : 0;
  dropped = std::max(since, get_u64(where, "dropped"));
  while (true) {
    TRY_ASSIGN(json events, blk::read_journal(where, since, k_report_at_once));
    if (events.empty()) return all;
    for (json& event : events) {
      since = get_u64(event, "n");
      all.push_back(std::move(event));
    }
  }
}

uint64_t began(const json& where) {
  return std::strtoull(get_string(where, "began_ns").c_str(), nullptr, 10);
}

Result<verify::ReportInput> ask(cli::Context& context, const target::DiskTarget& at) {
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  verify::ReportInput input;
  input.disk = at.disk.display();
  TRY_ASSIGN(const json status, call_compared(at.disk, client, {{"op", "verify.status"}}));
  if (const json* compared = find(status, "verify")) {
    input.broken = get_string(*compared, "error");
    input.reference_changed = get_bool(*compared, "reference_changed_outside");
    input.left_out_bytes = get_u64(*compared, "left_out_bytes");
    input.damaged_entries = get_u64(*compared, "damaged_entries");
  }
  TRY_ASSIGN(const json where, call_compared(at.disk, client, {{"op", "verify.journal"}}));
  input.findings_began_ns = began(where);
  TRY_ASSIGN(input.findings, read_all_of(where, input.dropped));
  // A disk without a fault layer has no faults.
  if (const auto faults = client.call({{"op", "fault.journal"}})) {
    input.faults_began_ns = began(*faults);
    TRY_ASSIGN(input.faults, read_all_of(*faults, input.faults_dropped));
  }
  TRY_ASSIGN(const json info, client.call({{"op", "info"}}));
  if (const json* disk = find(info, "disk")) input.size = get_u64(*disk, "size_bytes");
  return input;
}

// Into what is there: a device or a pipe stays one, a link leads to its file, a mode is kept. A
// file that is no page is somebody's data, perhaps an image.
Result<> write_page(const std::string& path, const std::string& page) {
  constexpr std::string_view k_start = "<!DOCTYPE html>";
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd) fd.reset(open(path.c_str(), O_WRONLY | O_CLOEXEC));  // a pipe, a terminal
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) < 0) return fail_errno("cannot open " + path, errno);
  if (S_ISREG(st.st_mode) && st.st_size != 0) {
    char head[k_start.size()] = {};
    const ssize_t n = pread(fd.get(), head, sizeof head, 0);
    if (std::string_view(head, std::max<ssize_t>(n, 0)) != k_start)
      return fail(Code::usage, path + " is there and is no report: it is not written over");
  }
  if (S_ISREG(st.st_mode) && ftruncate(fd.get(), 0) < 0)
    return fail_errno("cannot write " + path, errno);
  return write_all(fd.get(), page);
}

bool html_only(const ReportOptions& options) {
  return options.html == "-";
}

Result<int> act(cli::Context& context, const ReportOptions& options) {
  if (html_only(options) && (options.hex || context.selects_field()))
    return fail(Code::usage, "--html - takes standard output: --hex and -o have no place there");
  if (html_only(options)) context.raw_output();
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const verify::ReportInput input, ask(context, at));
  const std::vector<verify::Case> cases = verify::cases(input);
  const json verdict = verify::verdict(input, cases);
  if (!options.html.empty() && !html_only(options))
    TRY(write_page(options.html, verify::report_html(input, cases, verdict)));
  if (html_only(options)) {
    TRY(context.emit_raw(verify::report_html(input, cases, verdict)));
  } else if (options.hex || (context.text_output() && !context.selects_field())) {
    verify::PageOptions page;
    page.hex = options.hex;
    page.colour = isatty(STDOUT_FILENO) != 0;
    TRY(context.emit_raw(verify::report_page(input, cases, verdict, page)));
  } else {
    context.document()["report"] = verdict;
    if (!options.html.empty()) context.document()["report"]["html"] = absolute_path(options.html);
    TRY(context.emit());
  }
  return get_string(verdict, "verdict") == "good" ? 0 : 1;
}

}  // namespace

void build_report(cli::Verb& verb) {
  auto options = std::make_shared<ReportOptions>();
  target::add_disk_flag(verb, options->disk);
  verb.flag("--hex", options->hex, "A page for people, with the bytes of both sides");
  verb.option("--html", options->html, "FILE",
              "Write a page of HTML as well; - is stdout, instead of the document");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::verifycmd
