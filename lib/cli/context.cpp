// SPDX-License-Identifier: MIT
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "cli/command.hpp"

namespace pv::cli {
namespace {

Format choose_format(const CommonOptions& options) {
  if (options.text) return Format::text;
  if (options.json_mode == "pretty") return Format::pretty;
  if (!options.json_mode.empty() || !isatty(STDOUT_FILENO)) return Format::compact;
  return Format::text;
}

bool use_colour() {
  const char* no_colour = getenv("NO_COLOR");
  const char* term = getenv("TERM");
  return isatty(STDOUT_FILENO) && !(no_colour && *no_colour) && term && std::string(term) != "dumb";
}

// What went wrong is one line, whatever name or log it quotes.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return join(split(printable(text), '\n'), "\\n");
}

Result<> print(std::string_view text) {
  if (auto written = write_all(STDOUT_FILENO, text); !written)
    return fail_errno("cannot write to stdout", written.error().sys_errno);
  return {};
}

}  // namespace

void say(std::string_view line) {
  // Where stderr cannot be written there is nobody left to tell.
  static_cast<void>(write_all(STDERR_FILENO, std::string(line) + "\n"));
}

Context::Context(std::string noun, const CommonOptions& options)
    : noun_(std::move(noun)),
      options_(options),
      format_(choose_format(options)),
      document_({{"v", k_document_version}}) {}

Result<> Context::read_input() {
  Fd file;
  std::string name = "stdin";
  if (!options_.in_file.empty()) {
    name = options_.in_file;
    file.reset(open(name.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno("cannot open " + name, errno);
  } else if (isatty(STDIN_FILENO)) {
    return fail(Code::usage, "nothing named and no document on stdin");
  }
  const int fd = file ? file.get() : STDIN_FILENO;
  if (many_) {
    TRY_ASSIGN(auto documents, read_documents(fd, name));
    for (Result<json>& document : documents) waiting_.push_back(std::move(document));
  } else {
    TRY_ASSIGN(json document, read_document(fd, name));
    waiting_.emplace_back(std::move(document));
  }
  return {};
}

Result<json*> Context::input() {
  if (input_read_) return &document_;
  if (waiting_.empty()) TRY(read_input());
  Result<json> document = std::move(waiting_.front());
  waiting_.pop_front();
  if (!document) return fail(document.error());
  start_document(std::move(*document));
  input_read_ = true;
  if (const json* error = find(document_, "error")) {
    upstream_failed_ = true;
    return fail(error_from_json(*error));
  }
  return &document_;
}

Result<std::vector<Context::Input>> Context::inputs() {
  TRY(read_input());
  std::vector<Input> all;
  for (Result<json>& document : std::exchange(waiting_, {})) {
    std::optional<Error> wrong;
    if (!document)
      wrong = document.error();
    else if (const json* error = find(*document, "error"))
      wrong = error_from_json(*error);
    all.emplace_back(document ? std::move(*document) : json({{"v", k_document_version}}), wrong);
  }
  input_read_ = true;
  return all;
}

void Context::start_document(json document, bool upstream) {
  document_ = std::move(document);
  upstream_failed_ = upstream;
}

bool Context::next_document() {
  if (waiting_.empty()) return false;
  input_read_ = false;
  start_document({{"v", k_document_version}});
  return true;
}

Result<> Context::emit(const json& document) {
  if (!options_.field.empty()) {
    TRY_ASSIGN(const std::string value, select_field(document, options_.field, noun_));
    return print(value + "\n");
  }
  if (format_ == Format::text) {
    rows_.push_back(document);
    return {};
  }
  if (format_ == Format::pretty)
    return print(document.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  return print(to_line(document) + "\n");
}

Result<> Context::emit_line(const json& document) {
  if (options_.field.empty()) return emit(document);
  const std::string kind = split(options_.field, '.').front();
  const auto value = select_field(document, options_.field, noun_);
  field_known_ = field_known_ || value || find(document, kind.c_str()) != nullptr;
  if (value) return print(*value + "\n");
  ++left_out_;
  return {};
}

Result<> Context::emit_raw(std::string_view bytes) {
  raw_ = true;
  return print(bytes);
}

Result<RunDir> Context::run_dir(std::string_view document_scope) const {
  if (!options_.scope.empty()) return RunDir::open(options_.scope);
  if (!document_scope.empty()) return RunDir::open(document_scope);
  const char* scope = getenv("PV_SCOPE");
  return RunDir::open(scope && *scope ? scope : "default");
}

Result<uint64_t> Context::timeout_ns(uint64_t default_ns) const {
  if (options_.timeout.empty()) return default_ns;
  return parse_duration(options_.timeout);
}

Result<Deadline> Context::deadline(uint64_t default_ns) const {
  TRY_ASSIGN(const uint64_t ns, timeout_ns(default_ns));
  return Deadline::in_ns(ns);
}

Result<> Context::finish() {
  if (std::exchange(left_out_, 0) > 1 && !field_known_)
    say("no line has a field '" + printable(options_.field) + "'");
  if (rows_.empty()) return {};
  const std::string text = render_text(rows_, use_colour());
  rows_.clear();
  return print(text);
}

// A person at a terminal sees why the guest is not there; anything else gets one line.
void Context::explain(const Error& error) const {
  if (format_ != Format::text || !isatty(STDERR_FILENO) || !error.extra) return;
  if (error.code != Code::boot_timeout && error.code != Code::guest_died) return;
  const std::string text = render_console(get_string(*error.extra, "console"));
  if (!text.empty()) say(text);
}

int Context::report(const char* command, const Error& error) {
  const bool pipe = format_ != Format::text && !raw_ && options_.field.empty();
  if (upstream_failed_) {  // its own words, unchanged; also a code that only a later version knows
    if (pipe) static_cast<void>(print(to_line(document_) + "\n"));
    return error.code == Code::bug ? exit_class(Code::agent) : exit_class(error.code);
  }
  say(fmt::format("{}: {}", command, one_line(error.message)));
  if (pipe) {
    document_["error"] = error_to_json(error);
    // If stdout is what failed, stderr has already said so.
    static_cast<void>(print(to_line(document_) + "\n"));
  } else {
    explain(error);
  }
  return exit_class(error.code);
}

}  // namespace pv::cli
