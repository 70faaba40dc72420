// SPDX-License-Identifier: MIT
// The run directory: where running objects (VMs, disks) leave what the next command needs to find
// them. One directory per object under obj/, named by a short random id so that socket paths stay
// short; one symbolic link per name under idx/SCOPE/@KIND/, whose creation is the atomic test for
// a duplicate. This file knows nothing of what the objects are.
//
//   $PV_RUN_DIR | $XDG_RUNTIME_DIR/provium | /tmp/provium-UID      mode 0700, ours, no symlink
//     obj/1f0c9a3e/{state.json, lock, log, ctl.sock, nbd.sock, …}
//     idx/default/@vm/@/v -> 1f0c9a3e        idx/default/@disk/v/vda -> 77ab01c2
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/result.hpp"

namespace pv {

// One object. `owner` is "" for kinds that stand alone; a disk's owner is its VM ("" when served
// without one). Copyable; refers to the disk, holds nothing open.
struct Object {
  std::string kind;   // "vm", "disk"
  std::string scope;  // "default", "ci/job7"
  std::string owner;
  std::string name;
  std::string dir;  // absolute

  std::string path(std::string_view file) const { return dir + "/" + std::string(file); }
  // "v/vda", or "vda" without an owner.
  std::string display() const { return owner.empty() ? name : owner + "/" + name; }

  // state.json, replaced atomically. Whoever changes it holds lock().
  Result<json> load() const;
  Result<> save(const json& state) const;
  Result<LockFile> lock(const Deadline& deadline) const;
  bool exists() const;
};

class RunDir {
 public:
  // Finds and, where missing, makes the run directory. Refuses one that is not a directory of ours
  // with mode 0700, and a scope that is not a path of names.
  static Result<RunDir> open(std::string_view scope);

  const std::string& path() const { return path_; }
  const std::string& scope() const { return scope_; }

  // A new object in the current scope. Code::duplicate_name when it, or an outer scope, has one.
  // With a state, the object has it before it has its name: whoever is killed meanwhile leaves
  // either nothing that can be found, or an object that is whole.
  Result<Object> create(std::string_view kind, std::string_view owner, std::string_view name,
                        const json* state = nullptr) const;
  // By owner and name, from the current scope to its root; nullopt when there is none.
  std::optional<Object> find(std::string_view kind, std::string_view owner,
                             std::string_view name) const;
  // Every object of a kind with this name, whoever owns it, in the nearest scope that has one.
  std::vector<Object> find_any_owner(std::string_view kind, std::string_view name) const;
  // All of a kind visible from the current scope, or in every scope; sorted by scope and name.
  std::vector<Object> list(std::string_view kind, bool all_scopes = false) const;
  // What no object can be found by any more: objects without a name, names without an object,
  // temporary files of processes that were killed. Anything younger than some seconds is left out,
  // it may still be in the making.
  struct Stray {
    std::string path;
    std::string why;
  };
  std::vector<Stray> strays() const;
  // Ends the processes of strays and deletes them; how many there were.
  size_t sweep() const;
  // Forgets the name and deletes the directory. Idempotent.
  void remove(const Object& object) const;

 private:
  RunDir(std::string path, std::string scope) : path_(std::move(path)), scope_(std::move(scope)) {}
  std::string index_dir(std::string_view scope, std::string_view kind,
                        std::string_view owner) const;
  std::optional<Object> at(std::string_view scope, std::string_view kind, std::string_view owner,
                           std::string_view name) const;
  void list_scope(const std::string& scope, std::string_view kind, bool recurse,
                  std::vector<Object>& out) const;
  std::string path_;
  std::string scope_;
};

// Ends every process that is recorded anywhere in an object's state. True when one had to be
// killed.
Result<bool> end_recorded(const json& state, uint64_t grace_ns);

// The process that stands behind an object, as `save`d under "pid" and "start_ticks".
json process_to_json(const ProcessId& id);
ProcessId process_from_json(const json& state);

}  // namespace pv
