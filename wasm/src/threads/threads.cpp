// Helper threads of the threaded modules: instances of the same module on the same memory, each on a
// thread of the host and a stack of its own.
//
// A job is a number of pieces, which the calling thread and the helpers claim one by one from one
// word that also names the job: a helper that comes late, or that the system has put aside, claims
// nothing and holds up nobody. Only a piece under way is waited for. Helpers look for work for a
// bounded number of turns, then sleep until they are woken; the calling thread looks, then sleeps in
// short naps, or goes on looking where the host forbids it to sleep (the main thread of a browser).
#include "parallel.h"

#include "platform.h"
#include "threads.h"

namespace leanedge::kernels {

// There is one: the module's. All words are accessed atomically but for the job's description, which
// stands still from before a piece can be claimed until after the last one is done.
struct Context {
  alignas(64) uint64_t claim;  // epoch << 32 | pieces << 16 | next piece
  alignas(64) uint32_t done;   // pieces of the job that are done
  uint32_t caller_sleeps;
  alignas(64) uint32_t epoch;  // number of the job; helpers sleep on it
  uint32_t sleepers;
  uint32_t stop;
  uint32_t failed;
  alignas(64) ParallelPiece piece;
  void* arg;
  int32_t count;
  int32_t helpers;
  int32_t caller_may_sleep;
};

namespace {

constexpr uint32_t kHelperStackBytes = 128 * 1024;
// Pieces per thread: what is left when one is late is at most a fraction of its share.
constexpr int32_t kPiecesPerThread = 4;
// Turns of looking before sleeping, about a nanosecond each: longer than what lies between the
// products of a step, shorter than anybody would notice.
constexpr int32_t kHelperTurns = 100'000;
constexpr int32_t kCallerTurns = 20'000;
constexpr int64_t kNapNanoseconds = 1'000'000;

Context pool;

uint32_t load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
void store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }

void sleep_on(uint32_t* word, uint32_t seen, int64_t nanoseconds) {
  __builtin_wasm_memory_atomic_wait32(reinterpret_cast<int*>(word), static_cast<int>(seen),
                                      nanoseconds);
}

void wake(uint32_t* word) {
  __builtin_wasm_memory_atomic_notify(reinterpret_cast<int*>(word), UINT32_MAX);
}

// The next piece of job `epoch`, or -1: none left, or another job.
int32_t claim_piece(uint32_t epoch) {
  uint64_t seen = __atomic_load_n(&pool.claim, __ATOMIC_ACQUIRE);
  for (;;) {
    const uint32_t next = static_cast<uint32_t>(seen & 0xffff);
    const uint32_t pieces = static_cast<uint32_t>(seen >> 16 & 0xffff);
    if (static_cast<uint32_t>(seen >> 32) != epoch || next >= pieces) return -1;
    if (__atomic_compare_exchange_n(&pool.claim, &seen, seen + 1, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
      return static_cast<int32_t>(next);
    }
  }
}

// Does pieces of job `epoch` until none is left to claim.
void work(uint32_t epoch, int32_t thread) {
  for (;;) {
    const int32_t piece = claim_piece(epoch);
    if (piece < 0) return;
    const int64_t pieces = static_cast<int64_t>(
        __atomic_load_n(&pool.claim, __ATOMIC_RELAXED) >> 16 & 0xffff);
    const int64_t count = pool.count;
    pool.piece(pool.arg, static_cast<int32_t>(count * piece / pieces),
               static_cast<int32_t>(count * (piece + 1) / pieces), thread);
    __atomic_fetch_add(&pool.done, 1, __ATOMIC_SEQ_CST);
    if (load(&pool.caller_sleeps)) wake(&pool.done);
  }
}

// Waits for the pieces that helpers are still doing.
void await_done(uint32_t pieces) {
  for (int32_t turn = 0;; ++turn) {
    // A helper that trapped never finishes its piece, and what it has left behind is in no known state.
    if (load(&pool.failed)) __builtin_trap();
    const uint32_t seen = load(&pool.done);
    if (seen == pieces) return;
    if (turn < kCallerTurns || !pool.caller_may_sleep) continue;
    store(&pool.caller_sleeps, 1);
    sleep_on(&pool.done, seen, kNapNanoseconds);
    store(&pool.caller_sleeps, 0);
  }
}

}  // namespace

Context* parallel_context() { return &pool; }

int32_t parallel_threads() { return pool.helpers + 1; }

size_t parallel_stack_bytes() {
  return static_cast<size_t>(pool.helpers) * kHelperStackBytes;
}

void parallel_for(Context* context, int32_t count, ParallelPiece piece, void* arg) {
  if (count <= 0) return;
  if (!context || context->helpers == 0 || count == 1) return piece(arg, 0, count, 0);
  const int32_t most = (pool.helpers + 1) * kPiecesPerThread;
  const uint32_t pieces = static_cast<uint32_t>(count < most ? count : most);
  pool.piece = piece;
  pool.arg = arg;
  pool.count = count;
  store(&pool.done, 0);
  const uint32_t epoch = pool.epoch + 1;
  __atomic_store_n(&pool.claim, static_cast<uint64_t>(epoch) << 32 | pieces << 16,
                   __ATOMIC_SEQ_CST);
  store(&pool.epoch, epoch);
  if (load(&pool.sleepers)) wake(&pool.epoch);
  work(epoch, 0);
  await_done(pieces);
}

}  // namespace leanedge::kernels

using namespace leanedge::kernels;

extern "C" {

// Makes room for the stacks of `helpers` helpers (0 .. kThreadsMax - 1), which the host starts next.
// Once, before the engine is created. False if the memory is too small. `caller_may_sleep`: whether
// the host lets the calling thread sleep.
int32_t lew_threads_start(int32_t helpers, int32_t caller_may_sleep) {
  ENGINE_ASSERT(helpers >= 0 && helpers < kThreadsMax && pool.helpers == 0);
  pool.helpers = helpers;
  pool.caller_may_sleep = caller_may_sleep;
  if (leanedge::platform_reserve(0)) return 1;
  pool.helpers = 0;
  return 0;
}

// Where the stack of helper `thread` (1 .. helpers) begins; it grows down.
uint32_t lew_thread_stack(int32_t thread) {
  ENGINE_ASSERT(thread > 0 && thread <= pool.helpers);
  const uint64_t end = leanedge::platform_fixed_bytes() -
                       static_cast<uint64_t>(pool.helpers - thread) * kHelperStackBytes;
  return static_cast<uint32_t>(end);
}

// What helper `thread` does until lew_threads_stop.
void lew_thread_run(int32_t thread) {
  uint32_t seen = 0;
  for (int32_t turn = 0; !load(&pool.stop);) {
    const uint32_t epoch = load(&pool.epoch);
    if (epoch != seen) {
      seen = epoch;
      turn = 0;
      work(epoch, thread);
    } else if (++turn >= kHelperTurns) {
      turn = 0;
      __atomic_fetch_add(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
      if (!load(&pool.stop)) sleep_on(&pool.epoch, seen, -1);
      __atomic_fetch_sub(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
    }
  }
}

// Says that a helper trapped: the calling thread traps, too, instead of waiting for ever.
void lew_thread_failed(void) {
  store(&pool.failed, 1);
  wake(&pool.done);
}

// Ends the helpers; the calling thread then does all alone. Not while a job is under way.
void lew_threads_stop(void) {
  store(&pool.stop, 1);
  // Another epoch without a piece to claim, so that nobody goes to sleep on the old one.
  __atomic_fetch_add(&pool.epoch, 1, __ATOMIC_SEQ_CST);
  wake(&pool.epoch);
}

}  // extern "C"
