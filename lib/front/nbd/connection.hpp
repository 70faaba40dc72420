// SPDX-License-Identifier: MIT
// One client: option phase, then requests in batches. Everything the socket holds is read, every
// request is run, and the answers go out with one sendmsg. Lives on the loop's thread; it stays
// alive until the last request in flight has come back, also after the client has gone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "base/socket.hpp"
#include "blk/child.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/nbd/buffers.hpp"
#include "front/nbd/handshake.hpp"
#include "front/nbd/input.hpp"
#include "front/nbd/replies.hpp"

namespace pv::nbd {

// What all connections of one server share.
struct Shared {
  Loop& loop;
  blk::Disk& disk;
  blk::Counters& counters;
  const Export& exported;
  Buffers buffers;
  Pipes pipes;
  bool stopping = false;  // requests are answered ESHUTDOWN
  bool paused = false;    // requests wait in their sockets
  bool frozen = false;    // and answers wait here
  bool loans = true;      // reads may be answered from where the bytes lie
  bool offer_pipes = true;
};

class Connection {
 public:
  // `on_end` runs once, when the socket is closed and nothing is in flight; it may delete this.
  Connection(Shared& shared, Fd socket, uint32_t number, std::function<void(Connection*)> on_end);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Result<> start();
  // No further request is read; ends when those in flight are answered.
  void close();
  // Nothing more is said to the client; ends when what is in flight has come back.
  void hang_up();
  // After a pause: takes what has come meanwhile.
  void resume() { turn_later(); }
  // The process that has connected; 0 when that cannot be told.
  pid_t peer() const { return socket_ ? peer_pid(socket_.get()) : 0; }
  bool in_transmission() const { return handshake_.state() == Handshake::State::transmission; }

 private:
  struct Job {
    blk::Request request;
    Connection* connection = nullptr;
    uint64_t cookie = 0;
    bool known = true;  // a command that we have; others are counted apart
    char* buffer = nullptr;
    size_t buffer_size = 0;
    Input::Block* pinned = nullptr;  // a write whose data lies in the input
    Pipe* pipe = nullptr;            // a read that may go through it; holds the header already
    blk::Loan loan;
    blk::WireFault wire;
    iovec segment{};
    std::vector<blk::Extent> extents;
  };

  void ready(uint32_t events);
  void receive_and_parse();
  bool receive();
  void parse();
  bool parse_request();
  bool has_room() const;
  bool more_input() const;
  void begin(uint16_t command, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length);
  int prepare_read(Job& job, uint32_t length);
  void prepare_write(Job* job, uint32_t length);
  void submit(Job* job);
  size_t read_header(const Job& job, char* end) const;
  void offer_loan(Job& job);
  char* small_buffer(size_t size);
  void release(Job& job);

  // answers.cpp; a Reply that is empty stands for no memory, and the connection has been dropped.
  void finished(Job& job, int error);
  Reply answer(Job& job, int error);
  bool settle_loan(Job& job, int error);
  Reply read_answer(Job& job);
  Reply map_answer(const Job& job);
  static uint32_t wire_error(blk::Op op, int error);
  Reply status_answer(const Job& job, uint32_t code);

  // faults.cpp
  void ask_how_to_greet();
  void answer_faulty(Job& job, int error);
  bool take_back(Job& job);
  void hang_up(Job& job, int error);
  void violate(Job& job);
  Reply alien_chunk(const Job& job, Reply reply);
  Reply again(const Reply& reply);
  Reply noise(uint64_t seed, size_t bytes);
  void answer_prefix(Job& job, int error);

  void queue(const Reply& reply);
  void send();
  void turn();
  void turn_later();
  void drop();
  void update_interest();
  void maybe_end();

  Shared& shared_;
  Fd socket_;
  uint32_t number_;
  std::function<void(Connection*)> on_end_;
  Handshake handshake_;
  blk::Pool<Job> jobs_;

  Input input_;
  Job* payload_job_ = nullptr;  // a write whose data has not arrived in full
  size_t payload_have_ = 0;
  bool large_writes_ = false;   // data is received where it belongs, not by way of the input
  uint64_t skip_ = 0;           // data of a refused write, to be read and thrown away
  Job* refused_job_ = nullptr;  // that write; answered with the error when its data has gone by
  int refused_error_ = 0;

  Replies replies_;
  // What lent answers in `replies_` show. A change that a client sends behind such a read, without
  // having its answer, must not be seen in it: NBD leaves that open, a replay should not.
  struct Range {
    uint64_t begin, end;
  };
  std::vector<Range> lent_;
  size_t flight_bytes_ = 0;
  bool in_batch_ = false;
  size_t batch_jobs_ = 0;  // begun since the last turn
  bool batch_small_ = true;
  size_t single_ = 0;  // turns of one small request in a row
  bool turn_posted_ = false;
  bool closing_ = false;  // reads no more
  bool cut_ = false;      // by a fault: goes when what is queued is out, and nothing joins that
  bool blocked_ = false;  // the socket takes no more output for now
  uint32_t interest_ = EPOLLIN;
};

}  // namespace pv::nbd
