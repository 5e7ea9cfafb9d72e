// Who reads what: the cache of all sequences, laid out as one line of bytes, is cut into equal
// shares, one for each thread block. So no block waits for another's longer sequence or wider head,
// and the division needs no list: it follows from two running sums over the sequences.
//
// The line is ordered by row, then by KV head (a pair), then by unit: first the pair's tiles of
// full rows, then its archive pages. So heads that keep no archive, whose pairs take longer than
// their bytes tell, lie scattered over the blocks. Costs are in chunks of 16 bytes; each pair also
// costs a constant. Plain C++: the tests run it on a CPU.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define LEANEDGE_DEVICE __host__ __device__ __forceinline__
#else
#define LEANEDGE_DEVICE inline
#endif

namespace leanedge::cuda {

struct SplitShare {
  int64_t total;  // chunks of all pairs
  int64_t share;  // chunks of one block
};

// `least`: chunks of a share at least; below some number merging costs more than reading.
LEANEDGE_DEVICE SplitShare split_share(int64_t total, int32_t blocks, int32_t least) {
  const int64_t even = (total + blocks - 1) / blocks;
  return {total, even > least ? even : least};
}

// Block that owns chunk `at`.
LEANEDGE_DEVICE int32_t split_owner(const SplitShare& split, int64_t at) {
  return static_cast<int32_t>(at / split.share);
}

// One pair of KV head and row on the line.
struct SplitPair {
  int64_t begin;       // its first chunk
  int32_t tiles;       // tiles of full rows
  int32_t pages;       // archive pages; 0 for a head of width 0
  int32_t tile_cost;   // chunks of a tile
  int32_t page_cost;   // chunks of a page; above 0 where pages is
  int32_t start_cost;  // chunks that a block could read while it begins and ends a pair
};

LEANEDGE_DEVICE int64_t split_cost(const SplitPair& pair) {
  return pair.start_cost + static_cast<int64_t>(pair.tiles) * pair.tile_cost +
         static_cast<int64_t>(pair.pages) * pair.page_cost;
}

// Units of the pair that begin before chunk `at` of the line: a unit belongs to the share in which
// it begins.
LEANEDGE_DEVICE int32_t split_units(const SplitPair& pair, int64_t at) {
  if (at <= pair.begin + pair.start_cost) return 0;
  if (at >= pair.begin + split_cost(pair)) return pair.tiles + pair.pages;
  // A pair is at most 2^20 tokens of 512 bytes: 32 bits hold its chunks.
  const uint32_t in = static_cast<uint32_t>(at - pair.begin - pair.start_cost);
  const uint32_t tile_chunks =
      static_cast<uint32_t>(pair.tiles) * static_cast<uint32_t>(pair.tile_cost);
  if (in <= tile_chunks) {
    const uint32_t cost = static_cast<uint32_t>(pair.tile_cost);
    return static_cast<int32_t>((in + cost - 1) / cost);
  }
  const uint32_t cost = static_cast<uint32_t>(pair.page_cost);
  return pair.tiles + static_cast<int32_t>((in - tile_chunks + cost - 1) / cost);
}

// Where a block puts its part of a pair that it shares with others: it begins the pair last of all
// that it does, or goes on with it first. Two places a block are enough.
LEANEDGE_DEVICE int32_t split_part(int32_t block, int32_t first_owner) {
  return 2 * block + (block == first_owner ? 1 : 0);
}

// The owners of a pair in groups of `size`, which are merged before what they gave is: the group of `block`.
struct SplitGroup {
  int32_t first;   // block
  int32_t count;   // blocks
  int32_t groups;  // of the pair
};

LEANEDGE_DEVICE SplitGroup split_group(int32_t block, int32_t first_owner, int32_t owners,
                                       int32_t size) {
  const int32_t first = first_owner + (block - first_owner) / size * size;
  const int32_t rest = first_owner + owners - first;
  return {first, rest < size ? rest : size, (owners + size - 1) / size};
}

}  // namespace leanedge::cuda
