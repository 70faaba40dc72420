// SPDX-License-Identifier: MIT
// The matrix of fault kinds: every kind, through every front end, with every way in which a rule
// can choose its requests. A cell is one of each. Its requests come from the trigger, what they
// must do from the kind's oracle; both are tables, and the runner compares request by request.
//
// fault_matrix_fronts.cpp is the stack and two ways into it, _vhost.cpp the third, _world.cpp what
// an oracle knows, _kinds.cpp the oracles, _triggers.cpp the triggers, _cell.cpp runs one cell,
// fault_matrix.cpp all of them.
#pragma once

#include <functional>
#include <map>

#include "base/timers.hpp"
#include "blk/fault/chance.hpp"
#include "blk/params.hpp"
#include "support.hpp"

namespace pv::test::matrix {

using namespace blk;

constexpr uint64_t k_size = 512 << 10;
constexpr uint64_t k_lane = 16 << 10;        // the requests of a cell lie so far apart
constexpr uint64_t k_length = 4096;          // of most requests
constexpr uint64_t k_shift = 256 << 10;      // where misdirected requests go
constexpr uint64_t k_magic = k_size - 4096;  // where a guest says "now"
constexpr uint64_t k_aside = k_size - 8192;  // of a request that is only there

// One request, and what the trigger knows of it.
struct Ask {
  Op op = Op::read;
  uint64_t offset = 0, length = 0;
  uint32_t flags = 0;
  std::string data;     // of a write
  int client = 0;       // which connection
  bool counts = false;  // it is a match of the rule
  bool fires = false;
  int other = 0;  // what another rule makes of it
  bool changes() const { return op == Op::write || op == Op::zero || op == Op::discard; }
  std::string bytes() const { return op == Op::write ? data : std::string(length, '\0'); }
};

// An Ask under way.
struct Flight {
  Ask ask;
  std::string data;  // of a read
  int status = -1;
  std::unique_ptr<Io> io;
  int64_t cookie = 0;
};

// The bottom: what is really stored, and what has arrived there. The test looks at it from its own
// thread.
class Medium final : public Disk {
 public:
  Medium();
  const Geometry& geometry() const override { return geometry_; }
  void submit(Request& request) override;
  void fill(Rng& rng);
  std::string bytes() const;
  uint64_t flushes() const;
  uint64_t fua_bytes() const;  // changed with FUA

 private:
  void carry_out(const Request& request);
  Geometry geometry_;
  mutable std::mutex mutex_;
  std::string bytes_;
  uint64_t flushes_ = 0, fua_bytes_ = 0;
};

// A stack over a medium, with time that is moved by hand, and clients in front of it.
class Station {
 public:
  explicit Station(const std::vector<LayerSpec>& layers);
  virtual ~Station();
  virtual Front front() const = 0;
  virtual void on(const std::function<void()>& work) = 0;  // on the thread of the disk
  virtual void submit(Flight& flight) = 0;
  // Whether it has been answered; waits for that so long.
  virtual bool done(Flight& flight, int patience_ms) = 0;
  // The number of a client's connection; 0 where there are none.
  virtual uint32_t connection(int client) const {
    static_cast<void>(client);
    return 0;
  }

  Result<json> call(const json& request);
  void advance_ns(uint64_t ns);
  int settle();  // an internal flush
  Medium& medium() { return *medium_; }

 protected:
  ManualClock clock_;
  ManualTimers timers_{clock_};
  Medium* medium_ = nullptr;
  std::unique_ptr<Disk> disk_;
  Disk* top_ = nullptr;
};

std::unique_ptr<Station> make_station(Front front, bool cached);
std::unique_ptr<Station> make_vhost_station(const std::vector<LayerSpec>& layers);

// What the client of a request must see.
struct Answer {
  int status = 0;
  std::string data;            // of a read that succeeds
  uint64_t wait_ns = 0;        // it takes exactly so long
  bool held = false;           // until it is released
  const char* wire = nullptr;  // what the journal says of an answer that is none; `status` is seen
  // Where chance decides: looks at the answer and at the medium, says what is wrong with them, and
  // takes over what is there.
  std::function<std::string(const Flight& flight, const std::string& medium)> judge;
};

// What the disk should be at any moment.
struct World {
  bool cached = false;
  std::string honest;  // had no fault ever fired
  std::string shown;   // what a read gets
  std::string stable;  // cached: what is on the medium; else that is `shown`
  std::string old;     // when the rule came
  uint64_t flushes = 0, fua_bytes = 0;
  uint64_t now_ns = 0;   // since the rule came
  uint64_t free_ns = 0;  // when a disk of a certain rate is done
  bool latched = false;
  uint64_t matched = 0, fired = 0;
  struct Late {
    uint64_t due_ns, offset;
    std::string data;
  };
  std::vector<Late> late;

  const std::string& medium() const { return cached ? stable : shown; }
  void pass(const Ask& ask, Answer& answer);  // carried out as it stands
  void write(uint64_t offset, std::string_view bytes, uint32_t flags);
  void acknowledge(const Ask& ask);  // an honest disk would have it
  void advance(uint64_t ns);
};
void put(std::string& disk, uint64_t offset, std::string_view bytes);

// One firing.
struct Occasion {
  uint64_t match;
  Chance chance;
  json rule;
};

struct Cell;

// A kind and an operation, and the oracle of both.
struct Subject {
  const char* kind;
  const char* variant;  // tells subjects of one kind and operation apart
  Op op;
  const char* action;  // the `do` object
  void (*fire)(World& world, const Ask& ask, const Occasion& at, Answer& answer);
  uint32_t flags = 0;  // that its requests have
  bool cached = false;
  bool latches = false;
  const char* match = nullptr;       // what the rule must say besides the operation
  void (*prepare)(Cell&) = nullptr;  // when the rule has come
  void (*finish)(Cell&) = nullptr;   // when all requests are through
  bool wire = false;                 // what it does is done to a connection
  bool waits = false;                // a delay: nothing is requested or delivered
  uint64_t telling = 1;              // so many firings show at once
  std::string name() const;
};
const std::vector<Subject>& subjects();

enum Need : uint32_t {
  k_address = 1,
  k_data = 2,
  k_fua_able = 4,
  k_connection = 8,
};

struct Step {
  enum What { ask, mark, state, advance, hold, let_go } what = ask;
  Ask request = {};
  std::string name = {};
  uint64_t ns = 0;
};

struct Script {
  json match = json::object(), when = json::object();
  std::vector<json> helpers;  // rules that are added before
  std::vector<Step> steps;
};

// What a trigger is made for.
struct Maker {
  const Subject& subject;
  Front front;
  std::string id;  // of the rule; others begin with it
  Rng& rng;
  Ask ask(int lane, bool fires) const;
  Ask plain(Op op, uint64_t offset, uint64_t length) const;  // no match
  Step step(int lane, bool fires) const { return {Step::ask, ask(lane, fires)}; }
};

struct Trigger {
  const char* name;
  uint32_t needs;
  Script (*make)(const Maker& maker);
};
const std::vector<Trigger>& triggers();
// Why this cell makes no sense; nullptr when it does.
const char* excluded(const Subject& subject, const Trigger& trigger, Front front);

// What the rule of a cell is made into, to see that the cell notices.
enum class Sabotage { none, idle, restless };

// Runs one cell; what is wrong is in `wrong`, by what saw it.
struct Cell {
  Cell(Station& station, const Subject& subject, const Trigger& trigger, uint64_t number,
       uint64_t seed, Sabotage sabotage = Sabotage::none);
  void run();
  void ask(const Ask& ask);
  void advance(uint64_t ns);
  void clear(bool repair);

  Station& station;
  const Subject& subject;
  const Trigger& trigger;
  World world;
  Rng rng;
  Wrongs client, medium, record;

 private:
  struct Event {
    Ask ask;
    uint64_t match;
    int status;
    const char* wire;
    uint32_t connection;
  };
  void begin(const Script& script);
  void step(const Step& step);
  Answer expect(const Ask& ask);
  void wait_out(Flight& flight, const Answer& answer, uint64_t before);
  void release(const Flight& flight);
  bool finish(Flight& flight, const Answer& answer);
  void compare_medium(const char* when);
  void compare_record();
  void compare_event(const json& event, const Event& expected);
  void end();
  uint64_t last_event();
  void call(const json& request);

  std::string id_;
  Sabotage sabotage_;
  json rule_;
  std::vector<Event> events_;
  uint64_t first_event_ = 0, flushes_ = 0, fua_bytes_ = 0;
  std::unique_ptr<Flight> background_;
  std::vector<std::unique_ptr<Flight>> lost_;  // without an answer until the rules are cleared
};

}  // namespace pv::test::matrix
