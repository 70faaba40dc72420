// SPDX-License-Identifier: MIT
// What the five commands share: a table of verbs, the common flags, the way documents come in and
// go out, and the one place where an error becomes a line, a document and an exit code.
//
// A command is `main` with one CommandSpec. A verb is one file with one function
// `void build_NAME(Verb&)` that declares its flags (each exists once, here; manuals, completions
// and --help are checked against --dump-cli) and hands over the action.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "cli/document.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace pv::cli {

struct CommonOptions {
  std::string json_mode;  // "", "compact", "pretty"
  bool text = false;
  std::string field;
  std::string in_file;
  std::string scope;
  std::string timeout;
};

// What an action works with: the document that came in, the one that goes out.
class Context {
 public:
  Context(std::string noun, const CommonOptions& options);

  // The document from --in or stdin, read once and on demand; its keys are then passed on. An
  // action that found all it needs on the command line never calls this.
  Result<json*> input();
  // Of a verb that takes many documents: all of them at once, for one that works on several at the
  // same time. Each is the document or what is wrong with it; an `error` that came in is the error,
  // and start_document() then passes it on.
  using Input = std::pair<json, std::optional<Error>>;
  Result<std::vector<Input>> inputs();
  bool has_input() const { return input_read_; }
  // True with --in: stdin is then free for other uses.
  bool input_from_file() const { return !options_.in_file.empty(); }

  // The document that will go out: the keys that came in, plus what the action sets.
  json& document() { return document_; }

  // Prints the document (or queues it for the table on a terminal). Call once per result.
  Result<> emit() { return emit(document_); }
  Result<> emit(const json& document);
  // One of several kinds of lines: with -o, those that do not have the field are left out, and the
  // verb's exit status stays what it is.
  Result<> emit_line(const json& document);
  // Raw bytes instead of a document: no error document will follow on stdout.
  Result<> emit_raw(std::string_view bytes);
  // From now on stdout carries raw bytes, so errors go to stderr only.
  void raw_output() { raw_ = true; }
  // True where a document would be rendered for a person.
  bool text_output() const { return format_ == Format::text; }
  // True with -o: a closing summary would not have the field.
  bool selects_field() const { return !options_.field.empty(); }

  // The run directory in the scope of --scope, $PV_SCOPE, or "default"; `document_scope` is what a
  // document says and counts when neither was given.
  Result<RunDir> run_dir(std::string_view document_scope = "") const;

  // --timeout, or the verb's own default.
  Result<Deadline> deadline(uint64_t default_ns) const;
  Result<uint64_t> timeout_ns(uint64_t default_ns) const;

  // From now on document() is this one; `upstream`: its `error` came in with it.
  void start_document(json document, bool upstream = false);

  // Used by command_main. next_document() is true when there is one more for the verb's action.
  void take_many() { many_ = true; }
  bool next_document();
  Result<> finish();
  int report(const char* command, const Error& error);

 private:
  Result<> read_input();
  void explain(const Error& error) const;

  std::string noun_;
  const CommonOptions& options_;
  Format format_;
  json document_;
  bool input_read_ = false;
  bool upstream_failed_ = false;
  bool raw_ = false;
  bool many_ = false;
  std::deque<Result<json>> waiting_;  // documents that were read and not yet given out
  std::vector<json> rows_;
  bool field_known_ = false;  // some line had it, or is of a kind that may have it
  size_t left_out_ = 0;
};

// One line on stderr; never fails.
void say(std::string_view line);

using Action = std::function<Result<int>(Context&)>;

// One verb under construction. Option help texts are sentences without a full stop; metavars are
// upper case. Values are strings where their syntax is ours (sizes, durations, names).
class Verb {
 public:
  explicit Verb(CLI::App& app) : app_(app) {}

  CLI::Option* positional(const std::string& name, std::string& value, const std::string& help);
  // The remaining words.
  CLI::Option* rest(const std::string& name, std::vector<std::string>& values,
                    const std::string& help);
  // Everything after `--`, untouched; words before it are never taken for it. A command line
  // without `--` is a usage error that says so.
  CLI::Option* tail(const std::string& name, std::vector<std::string>& values,
                    const std::string& help);
  // The same, for a verb that needs it in some of its forms only: it may be missing altogether.
  CLI::Option* optional_tail(const std::string& name, std::vector<std::string>& values,
                             const std::string& help);
  CLI::Option* option(const std::string& names, std::string& value, const std::string& metavar,
                      const std::string& help);
  CLI::Option* option(const std::string& names, std::vector<std::string>& values,
                      const std::string& metavar, const std::string& help);
  CLI::Option* flag(const std::string& names, bool& value, const std::string& help);

  // Exit code of a failed action, where the error's own class would be misread (`pv-vm run`: 255).
  void failure_exit(int code) { failure_exit_ = code; }
  void run(Action action) { action_ = std::move(action); }
  // Stdin may hold several documents, one per line: the action runs once for each, and the exit
  // code is that of the first that failed. Nothing changes for an action that got a name.
  void takes_many() { takes_many_ = true; }

  CLI::App& app() { return app_; }
  const Action& action() const { return action_; }
  // Used by command_main: hands over what stood after `--`; why it cannot, or nullopt.
  bool has_tail() const { return tail_ != nullptr; }
  std::optional<std::string> take_tail(const std::vector<std::string>* words);
  std::optional<int> failure_exit() const { return failure_exit_; }
  bool is_for_many() const { return takes_many_; }

 private:
  CLI::App& app_;
  Action action_;
  std::optional<int> failure_exit_;
  std::string tail_name_;
  std::vector<std::string>* tail_ = nullptr;
  bool tail_needed_ = true;
  bool takes_many_ = false;
};

struct VerbSpec {
  const char* name;
  const char* help;  // one line, no full stop
  void (*build)(Verb& verb);
};

struct CommandSpec {
  const char* name;  // "pv-disk"
  const char* noun;  // "disk": the document key that `-o FIELD` looks in first
  const char* help;
  std::vector<VerbSpec> verbs;
};

int command_main(const CommandSpec& spec, int argc, char** argv);

}  // namespace pv::cli
