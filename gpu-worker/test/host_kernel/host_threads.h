// A device's threads on the host: each is a fiber, and those of a launch take turns in one thread of the system. Warps
// exchange values, blocks and clusters meet at barriers, shared memory is one range of bytes a block. Slow, exact, and
// under sanitizers: what a kernel reads beyond its memory, before it has come, or before the kernel before it has
// written it shows without a GPU.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <vector_types.h>

namespace leanedge::host {

inline constexpr size_t kSharedBytes = 232448;  // of a block, as on an H100

struct LaunchShape {
  int32_t blocks;
  int32_t threads;  // of a block, a multiple of 32
  int32_t cluster;  // blocks of a cluster
  size_t dynamic_bytes;
};

// When asynchronous copies happen: as soon as they are asked for, or not before somebody waits for them. What a kernel
// overwrites too early shows in the one, what it reads too early in the other.
enum class Copies { kEarly, kLate };

// What all launches from here on do. `previous` is called once a launch, when the first thread waits for the kernel
// before this one: it writes what that kernel would have.
void launches_set(Copies copies, void (*previous)(void* context), void* context);

// Runs `body(argument)` in every thread of a launch, one cluster after the other.
void launch_run(const LaunchShape& shape, void (*body)(const void* argument), const void* argument);

// Of the thread that calls.
uint3 thread_index();
uint3 block_index();
dim3 grid_size();
int32_t cluster_rank();
int32_t cluster_blocks();
void block_barrier();
void cluster_barrier();
void previous_kernel_wait();

// What cudaLaunchKernelExC does with a kernel of one argument: `shape`'s blocks call it with the first of `arguments`.
template <typename Args>
void kernel_launch(const LaunchShape& shape, const void* kernel, void** arguments) {
  struct Call {
    void (*kernel)(Args);
    const Args* args;
  };
  const Call call = {reinterpret_cast<void (*)(Args)>(const_cast<void*>(kernel)), static_cast<const Args*>(arguments[0])};
  launch_run(
      shape,
      [](const void* with) {
        const Call& of = *static_cast<const Call*>(with);
        of.kernel(*of.args);
      },
      &call);
}

// All 32 lanes of a warp call it: each gives `count` words, at most 12, and gets all lanes' words, (32, 12), until its
// next call.
const uint32_t* warp_exchange(const uint32_t* words, int32_t count);

// Shared memory of the caller's block. Addresses of the device are offsets into it; `bytes` must lie inside.
uint8_t* shared_at(uint32_t address, size_t bytes);
uint32_t shared_address(const void* pointer);
// The same place in the memory of block `rank` of the caller's cluster.
const void* shared_of(const void* pointer, int32_t rank);
uint8_t* dynamic_shared();
// A place for a variable that all threads of a block share; each type has one.
void* static_shared(size_t* place, size_t bytes);

template <typename T>
T& shared_variable() {
  static size_t place = 0;
  return *static_cast<T*>(static_shared(&place, sizeof(T)));
}

// mbarrier: a phase ends when `arrivals` threads have come; waits for the end of the phase of that parity.
void barrier_init(uint32_t barrier, uint32_t arrivals);
void barrier_arrive(uint32_t barrier);
void barrier_wait(uint32_t barrier, uint32_t parity);

// cp.async: 16 bytes, zeros where `from` is null; then what commit and wait do.
void copy_start(uint32_t to, const void* from);
void copy_commit();
void copy_wait(int32_t pending);

}  // namespace leanedge::host
