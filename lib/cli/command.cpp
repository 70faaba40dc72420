// SPDX-License-Identifier: MIT
#include "cli/command.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "cli/dump.hpp"
#include "cli/surroundings.hpp"
#include "cli/version.hpp"

namespace pv::cli {
namespace {

// An empty word is most likely an unset variable, not a wish for the default.
std::string not_empty(const std::string& word) {
  return word.empty() ? "it is empty" : "";
}

// Checked for every verb, also for one that never has to wait.
std::string is_timeout(const std::string& word) {
  const Result<uint64_t> ns = parse_duration(word);
  if (!ns) return printable(ns.error().message);
  return *ns == 0 ? fmt::format("'{}': it needs more than 0", word) : "";
}

// The value that --json has without one stands in its name, which is no use to a reader.
class HelpFormatter : public CLI::Formatter {
  std::string make_option_name(const CLI::Option* option, bool positional) const override {
    const std::string name = CLI::Formatter::make_option_name(option, positional);
    return name.substr(0, name.find('{'));
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string text = CLI::Formatter::make_option_opts(option);
    return text.rfind(" [=", 0) == 0 ? text.substr(1) : text;
  }
};

// Flags that every verb has.
void add_common(CLI::App& app, CommonOptions& common) {
  app.add_flag("--json{compact}", common.json_mode,
               "Print JSON Lines whatever stdout is; --json=pretty for indented JSON")
      ->check(CLI::IsMember({"compact", "pretty"}))
      ->option_text("[=pretty]")
      ->group("Common options");
  app.add_flag("--text", common.text, "Print text whatever stdout is")->group("Common options");
  app.add_option("-o,--output", common.field, "Print only this field of the result, e.g. -o id")
      ->type_name("FIELD")
      ->check(not_empty)
      ->group("Common options");
  app.add_option("--in", common.in_file, "Read the input document from FILE instead of stdin")
      ->type_name("FILE")
      ->check(not_empty)
      ->group("Common options");
  app.add_option(
         "--scope", common.scope,
         "Scope of the names (default: the input document's, else $PV_SCOPE, else 'default')")
      ->type_name("PATH")
      ->check(not_empty)
      ->group("Common options");
  app.add_option("--timeout", common.timeout, "Give up after this long, e.g. 500ms, 30s")
      ->type_name("DURATION")
      ->check(is_timeout)
      ->group("Common options");
}

struct Built {
  std::unique_ptr<CLI::App> app;
  CommonOptions common;
  std::vector<std::unique_ptr<Verb>> verbs;
  bool dump = false;
};

// With a verb on the command line only that one is built: the flags of all the others would take
// longer than what most verbs do.
std::unique_ptr<Built> build(const CommandSpec& spec, std::string_view verb) {
  const auto named = [&](const VerbSpec& row) { return row.name == verb; };
  const bool one = std::any_of(spec.verbs.begin(), spec.verbs.end(), named);
  auto built = std::make_unique<Built>();
  built->app = std::make_unique<CLI::App>(spec.help, spec.name);
  CLI::App& app = *built->app;
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_version_flag("--version", fmt::format("{} {}", spec.name, k_version));
  app.add_flag("--dump-cli", built->dump, "Print every verb and flag as JSON");
  app.footer(fmt::format("See {}(1) and provium(7).", spec.name));
  for (const VerbSpec& row : spec.verbs) {
    if (one && !named(row)) continue;
    CLI::App* sub = app.add_subcommand(row.name, row.help);
    sub->footer(fmt::format("See {}(1).", spec.name));
    built->verbs.push_back(std::make_unique<Verb>(*sub));
    row.build(*built->verbs.back());
    add_common(*sub, built->common);
  }
  return built;
}

Error usage_error(const CommandSpec& spec, const std::string& verb, std::string message) {
  // CLI11's own words for this are longer and do not say that it is a flag.
  for (std::string_view words :
       {"The following argument was not expected: ", "The following arguments were not expected: "})
    if (message.rfind(words, 0) == 0)
      message = (message[words.size()] == '-' ? "unknown flag " : "unexpected argument ") +
                message.substr(words.size());
  while (!message.empty() && (message.back() == '\n' || message.back() == '.')) message.pop_back();
  for (char& c : message)
    if (c == '\n') c = ' ';
  return Error(Code::usage, fmt::format("{}; try '{}{}{} --help'", message, spec.name,
                                        verb.empty() ? "" : " ", verb));
}

// Verbs are looked up by hand: CLI11 would call an unknown one an unexpected argument.
std::optional<Error> check_verb(const CommandSpec& spec, int argc, char** argv) {
  std::vector<std::string> names;
  for (const VerbSpec& row : spec.verbs) names.emplace_back(row.name);
  if (argc < 2) return usage_error(spec, "", "no verb; verbs: " + join(names, " "));
  if (argv[1][0] == '-') return std::nullopt;
  for (const std::string& name : names)
    if (name == argv[1]) return std::nullopt;
  Error error =
      usage_error(spec, "", fmt::format("unknown verb '{}'; verbs: {}", argv[1], join(names, " ")));
  return error.with("valid", names);
}

// One round of the verb's action, its error reported.
int act(const CommandSpec& spec, const Verb& verb, Context& context) {
  const Result<int> result = verb.action()(context);
  if (result) return *result;
  const int code = context.report(spec.name, result.error());
  return verb.failure_exit().value_or(code);
}

int run_verb(const CommandSpec& spec, const Built& built, Context& context) {
  for (const auto& verb : built.verbs) {
    if (!verb->app().parsed()) continue;
    if (verb->is_for_many()) context.take_many();
    int code = act(spec, *verb, context);
    while (context.next_document()) {
      const int one = act(spec, *verb, context);
      if (code == 0) code = one;
    }
    if (const Result<> finished = context.finish(); !finished && code == 0) {
      code = context.report(spec.name, finished.error());
      return verb->failure_exit().value_or(code);
    }
    return code;
  }
  return context.report(spec.name, usage_error(spec, "", "no verb"));
}

}  // namespace

CLI::Option* Verb::positional(const std::string& name, std::string& value,
                              const std::string& help) {
  return app_.add_option(name, value, help)->type_name("")->check(not_empty);
}

CLI::Option* Verb::rest(const std::string& name, std::vector<std::string>& values,
                        const std::string& help) {
  return app_.add_option(name, values, help)->type_name("")->check(not_empty);
}

CLI::Option* Verb::tail(const std::string& name, std::vector<std::string>& values,
                        const std::string& help) {
  tail_name_ = name;
  tail_ = &values;
  return app_.add_option(name, values, help)->type_name("");
}

CLI::Option* Verb::optional_tail(const std::string& name, std::vector<std::string>& values,
                                 const std::string& help) {
  tail_needed_ = false;
  return tail(name, values, help);
}

std::optional<std::string> Verb::take_tail(const std::vector<std::string>* words) {
  if (!words && !tail_needed_ && tail_->empty()) return std::nullopt;
  // CLI11 has put words before `--` that nothing else took into the option.
  if (!words || !tail_->empty())
    return fmt::format("put the {} after '--'{}", tail_name_,
                       tail_->empty() ? "" : fmt::format(" (unexpected '{}')", tail_->front()));
  if (words->empty()) return fmt::format("nothing after '--': no {}", tail_name_);
  *tail_ = *words;
  return std::nullopt;
}

CLI::Option* Verb::option(const std::string& names, std::string& value, const std::string& metavar,
                          const std::string& help) {
  return app_.add_option(names, value, help)->type_name(metavar)->check(not_empty);
}

CLI::Option* Verb::option(const std::string& names, std::vector<std::string>& values,
                          const std::string& metavar, const std::string& help) {
  return app_.add_option(names, values, help)
      ->type_name(metavar)
      ->expected(1)
      ->check(not_empty)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

CLI::Option* Verb::flag(const std::string& names, bool& value, const std::string& help) {
  return app_.add_flag(names, value, help);
}

namespace {

// Parses the command line; a verb with a tail gets what stands after the first `--`.
std::optional<Error> parse(const CommandSpec& spec, Built& built, const std::string& verb, int argc,
                           char** argv) {
  Verb* tailed = nullptr;
  for (const auto& each : built.verbs)
    if (each->app().get_name() == verb && each->has_tail()) tailed = each.get();
  std::optional<std::vector<std::string>> tail;
  int count = argc;
  for (int i = 1; tailed && i < argc && !tail; ++i) {
    if (std::string_view(argv[i]) != "--") continue;
    tail.emplace(argv + i + 1, argv + argc);
    count = i;
  }
  built.app->parse(count, argv);
  if (!tailed || built.dump) return std::nullopt;
  if (auto wrong = tailed->take_tail(tail ? &*tail : nullptr))
    return usage_error(spec, verb, *wrong);
  return std::nullopt;
}

}  // namespace

int command_main(const CommandSpec& spec, int argc, char** argv) {
  make_surroundings_sane();
  try {
    const auto built = build(spec, argc > 1 ? argv[1] : "");
    std::string verb;
    Error error;
    if (auto wrong = check_verb(spec, argc, argv)) {
      error = *wrong;
    } else {
      if (argv[1][0] != '-') verb = argv[1];
      try {
        auto wrong = parse(spec, *built, verb, argc, argv);
        if (built->dump) {
          const std::string tree = dump_cli(spec, *built->app).dump() + "\n";
          return write_all(STDOUT_FILENO, tree) ? 0 : exit_class(Code::system);
        }
        if (!wrong) {
          Context context(spec.noun, built->common);
          return run_verb(spec, *built, context);
        }
        error = *wrong;
      } catch (const CLI::ParseError& problem) {
        if (problem.get_exit_code() == 0) return built->app->exit(problem);  // --help, --version
        error = usage_error(spec, verb, problem.what());
      }
    }
    Context context(spec.noun, built->common);
    context.report(spec.name, error);
    for (const auto& each : built->verbs)
      if (each->app().get_name() == verb && each->failure_exit()) return *each->failure_exit();
    return exit_class(Code::usage);
  } catch (const std::exception& unexpected) {
    say(fmt::format("{}: internal error: {}", spec.name, unexpected.what()));
    return exit_class(Code::bug);
  }
}

}  // namespace pv::cli
