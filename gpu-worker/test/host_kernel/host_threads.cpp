#include "host_threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <vector>

namespace leanedge::host {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int32_t kWords = 12;
constexpr size_t kStaticBytes = 32768;  // of a block's shared memory: its start, variables of all kernels

struct Copy {
  uint32_t to;
  const void* from;
  int32_t group;
};

// A meeting of `size` threads: round n is over when size * (n + 1) have come.
struct Meeting {
  int64_t size = 0;
  int64_t come = 0;
};

struct Warp {
  Meeting meeting;
  uint32_t words[2][32][kWords];
};

struct Block {
  std::vector<uint8_t> shared;
  Meeting meeting;
  std::vector<Warp> warps;
  std::map<uint32_t, Meeting> barriers;  // by their address
};

struct Thread {
  ucontext_t context;
  Block* block = nullptr;
  int32_t index = 0;
  int32_t block_index = 0;
  int32_t rank = 0;
  int64_t rounds = 0;  // of the warp
  int64_t block_rounds = 0;
  int64_t cluster_rounds = 0;
  const Meeting* waits = nullptr;
  int64_t target = 0;
  std::deque<Copy> copies;
  int32_t group = 0;
  bool done = false;
};

ucontext_t scheduler;
Thread* running = nullptr;
LaunchShape shape;
std::vector<Block> cluster;
std::vector<char*> stacks;  // kept between launches
Meeting cluster_meeting;
void (*body)(const void*);
const void* argument;
Copies copies;
void (*previous)(void*);
void* previous_context;
bool previous_done;
size_t statics = 0;

[[noreturn]] void fail(const char* what, int64_t value) {
  fprintf(stderr, "host kernel: %s (%lld), block %d thread %d\n", what,
          static_cast<long long>(value), running ? running->block_index : -1,
          running ? running->index : -1);
  abort();
}

void thread_main() {
  body(argument);
  running->done = true;
  for (;;) swapcontext(&running->context, &scheduler);
}

// Waits until `target` have come.
void await(const Meeting& meeting, int64_t target) {
  Thread* self = running;
  self->waits = &meeting;
  self->target = target;
  while (meeting.come < target) swapcontext(&self->context, &scheduler);
  self->waits = nullptr;
}

void meet(Meeting* meeting, int64_t round) {
  ++meeting->come;
  await(*meeting, meeting->size * (round + 1));
}

Meeting& barrier_at(uint32_t address) {
  const auto found = running->block->barriers.find(address);
  if (found == running->block->barriers.end()) fail("no barrier", address);
  return found->second;
}

void copy_do(const Copy& copy) {
  uint8_t* to = shared_at(copy.to, 16);
  if (copy.to % 16 || reinterpret_cast<uintptr_t>(copy.from) % 16) fail("copy is not aligned", copy.to);
  if (copy.from) {
    memcpy(to, copy.from, 16);
  } else {
    memset(to, 0, 16);
  }
}

// All threads of a cluster, until all are done.
void cluster_run(int32_t first_block) {
  cluster_meeting = {static_cast<int64_t>(shape.cluster) * shape.threads, 0};
  cluster.clear();
  cluster.resize(static_cast<size_t>(shape.cluster));
  std::vector<Thread> threads(static_cast<size_t>(shape.cluster * shape.threads));
  for (int32_t b = 0; b < shape.cluster; ++b) {
    Block& block = cluster[static_cast<size_t>(b)];
    block.shared.assign(kStaticBytes + shape.dynamic_bytes, 0xff);  // NaN in every type
    block.meeting.size = shape.threads;
    block.warps.resize(static_cast<size_t>(shape.threads / 32));
    for (Warp& warp : block.warps) warp.meeting.size = 32;
    for (int32_t t = 0; t < shape.threads; ++t) {
      Thread& thread = threads[static_cast<size_t>(b * shape.threads + t)];
      thread.block = &block;
      thread.index = t;
      thread.block_index = first_block + b;
      thread.rank = b;
      const size_t number = static_cast<size_t>(b * shape.threads + t);
      if (number == stacks.size()) stacks.push_back(new char[kStackBytes]);
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = stacks[number];
      thread.context.uc_stack.ss_size = kStackBytes;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, thread_main, 0);
    }
  }
  // Whether any thread of a warp got on; it runs for as long as one does.
  size_t left = threads.size();
  auto warp_run = [&](size_t at) {
    bool moved = false;
    for (bool again = true; again;) {
      again = false;
      for (size_t i = at; i < at + 32; ++i) {
        Thread& thread = threads[i];
        if (thread.done || (thread.waits && thread.waits->come < thread.target)) continue;
        running = &thread;
        swapcontext(&scheduler, &thread.context);
        running = nullptr;
        moved = again = true;
        if (thread.done) --left;
      }
    }
    return moved;
  };
  // A block at a time, for as long as it gets on: it runs ahead of the others as far as it can.
  const size_t block_threads = static_cast<size_t>(shape.threads);
  while (left > 0) {
    bool moved = false;
    for (size_t block = 0; block < threads.size(); block += block_threads) {
      for (bool again = true; again;) {
        again = false;
        for (size_t at = block; at < block + block_threads; at += 32) again = warp_run(at) || again;
        moved = moved || again;
      }
    }
    if (!moved) fail("threads wait for each other", static_cast<int64_t>(left));
  }
  for (const Thread& thread : threads) {
    if (!thread.copies.empty()) fail("copies that nobody waited for", thread.index);
  }
}

}  // namespace

void launches_set(Copies when, void (*call)(void*), void* context) {
  copies = when;
  previous = call;
  previous_context = context;
}

void launch_run(const LaunchShape& of, void (*run)(const void*), const void* with) {
  if (of.threads % 32 || of.blocks % of.cluster || of.dynamic_bytes > kSharedBytes) {
    fail("launch", of.blocks);
  }
  shape = of;
  body = run;
  argument = with;
  previous_done = false;
  for (int32_t first = 0; first < of.blocks; first += of.cluster) cluster_run(first);
}

uint3 thread_index() { return {static_cast<unsigned>(running->index), 0, 0}; }
uint3 block_index() { return {static_cast<unsigned>(running->block_index), 0, 0}; }
dim3 grid_size() { return dim3(static_cast<unsigned>(shape.blocks)); }
int32_t cluster_rank() { return running->rank; }
int32_t cluster_blocks() { return shape.cluster; }

void block_barrier() { meet(&running->block->meeting, running->block_rounds++); }
void cluster_barrier() { meet(&cluster_meeting, running->cluster_rounds++); }

void previous_kernel_wait() {
  if (previous_done) return;
  previous_done = true;
  if (previous) previous(previous_context);
}

const uint32_t* warp_exchange(const uint32_t* words, int32_t count) {
  if (count > kWords) fail("words", count);
  Thread* self = running;
  Warp& warp = self->block->warps[static_cast<size_t>(self->index / 32)];
  auto& all = warp.words[self->rounds & 1];
  memcpy(all[self->index % 32], words, static_cast<size_t>(count) * sizeof(uint32_t));
  meet(&warp.meeting, self->rounds++);
  return &all[0][0];
}

uint8_t* shared_at(uint32_t address, size_t bytes) {
  std::vector<uint8_t>& shared = running->block->shared;
  if (address + bytes > shared.size()) fail("beyond shared memory", address);
  return shared.data() + address;
}

uint32_t shared_address(const void* pointer) {
  const std::vector<uint8_t>& shared = running->block->shared;
  const ptrdiff_t at = static_cast<const uint8_t*>(pointer) - shared.data();
  if (at < 0 || static_cast<size_t>(at) > shared.size()) fail("not in shared memory", at);
  return static_cast<uint32_t>(at);
}

const void* shared_of(const void* pointer, int32_t rank) {
  return cluster[static_cast<size_t>(rank)].shared.data() + shared_address(pointer);
}

uint8_t* dynamic_shared() { return running->block->shared.data() + kStaticBytes; }

void* static_shared(size_t* place, size_t bytes) {
  if (*place == 0) {
    statics = (statics + 127) / 128 * 128 + 128;
    if (statics + bytes > kStaticBytes) fail("variables in shared memory", static_cast<int64_t>(bytes));
    *place = statics;
    statics += bytes;
  }
  return running->block->shared.data() + *place;
}

void barrier_init(uint32_t barrier, uint32_t arrivals) {
  shared_at(barrier, 8);
  running->block->barriers[barrier] = {arrivals, 0};
}

void barrier_arrive(uint32_t barrier) { ++barrier_at(barrier).come; }

void barrier_wait(uint32_t barrier, uint32_t parity) {
  const Meeting& meeting = barrier_at(barrier);
  const int64_t phase = meeting.come / meeting.size;
  if (phase % 2 == parity) await(meeting, meeting.size * (phase + 1));
}

void copy_start(uint32_t to, const void* from) {
  const Copy copy = {to, from, running->group};
  if (copies == Copies::kEarly) {
    copy_do(copy);
  } else {
    running->copies.push_back(copy);
  }
}

void copy_commit() { ++running->group; }

void copy_wait(int32_t pending) {
  std::deque<Copy>& queue = running->copies;
  while (!queue.empty() && queue.front().group < running->group - pending) {
    copy_do(queue.front());
    queue.pop_front();
  }
}

}  // namespace leanedge::host
