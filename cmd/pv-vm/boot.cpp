// SPDX-License-Identifier: MIT
#include "vm/boot.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "target/accounting.hpp"
#include "verbs.hpp"
#include "vm/boot_many.hpp"

namespace pv::vmcmd {
namespace {

struct BootOptions {
  std::vector<std::string> names;
  VmFlags flags;
  bool atomic = false;
  std::string jobs;
};

// One VM of a batch: the document it came with, and where it is, or why not.
struct Item {
  json document;
  bool upstream = false;  // the error came in with the document
  Result<target::VmTarget> at;
  std::optional<Error> error;
};

Result<std::vector<Item>> items_of(cli::Context& context, const BootOptions& options) {
  std::vector<Item> items;
  for (const std::string& name : options.names) {
    json document = {{"v", cli::k_document_version}};
    if (options.names.size() > 1) document["vm"] = {{"name", name}};
    items.push_back({document, false, target::vm_target(context, name), {}});
  }
  if (!options.names.empty()) return items;
  TRY_ASSIGN(auto inputs, context.inputs());
  for (auto& [document, wrong] : inputs) {
    const bool upstream = document.contains("error");
    auto at =
        wrong ? Result<target::VmTarget>(fail(*wrong)) : target::vm_in_document(context, document);
    items.push_back({std::move(document), upstream, std::move(at), {}});
  }
  return items;
}

Result<> emit(cli::Context& context, Item& item) {
  TRY_ASSIGN(json document, target::live_document(item.at->run, item.at->vm));
  context.start_document(std::move(item.document));
  context.document()["vm"] = std::move(document);
  return context.emit();
}

// The exit code is that of the first in the order of the input that failed by itself.
int report_all(cli::Context& context, std::vector<Item>& items) {
  int code = 0, aborted = 0;
  for (Item& item : items) {
    if (!item.error) continue;
    context.start_document(std::move(item.document), item.upstream);
    const int one = context.report("pv-vm", *item.error);
    int& first = item.error->code == Code::aborted ? aborted : code;
    if (first == 0) first = one;
  }
  return code != 0 ? code : aborted;
}

Result<size_t> parallel_of(const BootOptions& options, size_t count) {
  if (options.jobs.empty()) return std::max<size_t>(1, count);
  TRY_ASSIGN(const uint64_t jobs, parse_count("--jobs", options.jobs));
  if (jobs == 0) return fail(Code::usage, "--jobs: at least 1");
  return std::min<size_t>(jobs, std::max<size_t>(1, count));
}

Result<int> boot_one(cli::Context& context, const BootOptions& options, Item& item) {
  context.start_document(std::move(item.document), item.upstream);
  TRY(item.at);
  TRY_ASSIGN(const uint64_t timeout_ns, context.timeout_ns(vm::default_boot_ns(item.at->run, 1)));
  TRY(vm::boot_vm(item.at->run, item.at->vm, options_of(options.flags), timeout_ns));
  TRY_ASSIGN(json document, target::live_document(item.at->run, item.at->vm));
  context.document()["vm"] = std::move(document);
  TRY(context.emit());
  return 0;
}

Result<int> act(cli::Context& context, const BootOptions& options) {
  TRY_ASSIGN(std::vector<Item> items, items_of(context, options));
  TRY_ASSIGN(const size_t parallel, parallel_of(options, items.size()));
  if (items.size() == 1) return boot_one(context, options, items.front());
  vm::BootMany batch;
  std::vector<size_t> item_of;  // by job
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].at) {
      items[i].error = items[i].at.error();
      continue;
    }
    batch.jobs.push_back({items[i].at->run, items[i].at->vm});
    item_of.push_back(i);
  }
  if (options.atomic && batch.jobs.size() < items.size()) {
    for (Item& item : items)
      if (!item.error)
        item.error = Error(Code::aborted, fmt::format("VM '{}' stays as it was: not all could be "
                                                      "booted",
                                                      item.at->vm.name));
    return report_all(context, items);
  }
  if (batch.jobs.empty()) return report_all(context, items);
  batch.options = options_of(options.flags);
  TRY_ASSIGN(batch.timeout_ns,
             context.timeout_ns(vm::default_boot_ns(batch.jobs.front().run, parallel)));
  batch.parallel = parallel;
  batch.atomic = options.atomic;
  Result<> printed;
  vm::boot_many(batch, [&](size_t job, const Result<json>& vm) {
    Item& item = items[item_of[job]];
    if (!vm)
      item.error = vm.error();
    else if (auto one = emit(context, item); !one && printed)
      printed = one;
  });
  const int code = report_all(context, items);
  TRY(printed);
  return code;
}

}  // namespace

void build_boot(cli::Verb& verb) {
  auto options = std::make_shared<BootOptions>();
  verb.rest("names", options->names, "VMs (default: those of the documents on stdin)");
  add_vm_flags(verb, options->flags);
  add_accel_flag(verb, options->flags);
  verb.flag("--atomic", options->atomic,
            "All or none: when one cannot be booted, those that were are shut down again");
  verb.option("--jobs", options->jobs, "N", "Boot at most this many at the same time");
  verb.takes_many();
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
