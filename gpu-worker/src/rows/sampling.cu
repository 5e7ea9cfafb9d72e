// Drawing one token a row. Eight thread blocks (fewer where there are many rows, one before sm_90) share
// a row's vocabulary and agree through each other's shared memory.
//
// No sort: a token's place in the order is a 50-bit key (its distance from the greatest score in units
// of 2^-27 nats, then its id; or the id alone where no filter orders), and the token at which a
// running count or a running sum of weights crosses a limit is found digit by digit: a histogram of
// 2,048 digits with counts and sums, a scan, then the same within the digit that holds the crossing.
// Weights are integers (units of 2^-44), so sums do not depend on the order of additions. The cut of
// top_k and top_p is one such search, the draw within what is left another.
#include <math.h>

#include "../../../engine/src/philox.h"
#include "cluster.cuh"
#include "leanedge_cuda/sampling.h"
#include "row_ops.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kIdBits = 18;
constexpr int kKeyBits = 32 + kIdBits;
static_assert(kSampleVocabMax == 1 << kIdBits);
constexpr float kDistanceMax = 32;             // nats: beyond, weights are 0 in units of 2^-44
constexpr float kDistanceUnits = 0x1p27f;      // a nat; 32 of them fill 32 bits
constexpr float kWeightUnits = 0x1p44f;
constexpr uint64_t kNoLimit = ~uint64_t{0};

// Counts and sums of weights, by digit. A sum is two words, so that its atomics are those of 32 bits.
struct Histogram {
  uint32_t count[kBins];
  uint32_t low[kBins];
  uint32_t high[kBins];
};

// The histograms of all blocks added up: each block holds its share of the digits.
template <int kRanks>
struct Totals {
  uint64_t sum[kBins / kRanks];
  uint32_t count[kBins / kRanks];
};

// What a block has seen of the row, and what follows from all blocks.
struct Greatest {
  float logit;
  float score;
  int32_t token;  // of the score; the lowest of equals
  int32_t finite;
};
struct Sums {
  double exponentials;  // of logits, relative to the greatest
  uint64_t weights;
};

// Where a search stands: the digit that holds the crossing, and what lies before it.
struct Found {
  uint64_t sum_before;
  uint64_t sum;        // of the digit
  uint64_t sum_all;    // of all digits that were searched
  uint32_t count_before;
  uint32_t count;
  int32_t digit;       // -1: the limits are not reached
};

template <int kRanks>
struct Shared {
  Histogram histogram;
  Totals<kRanks> totals[2];  // of the first digit, and of the digit at hand
  Greatest greatest;
  Sums sums;
  Found found;
  Greatest warp_greatest[kWarps];
  Sums warp_sums[kWarps];
  uint64_t scan_sum[kWarps];
  uint32_t scan_count[kWarps];
  uint32_t penalised[1];  // a bit a token of the slice: its real length is the launch's
};

// The part of the vocabulary that a block looks after.
struct Slice {
  const float* logits;
  float* scores;              // (count) in shared memory, once find_greatest was there; or null
  const uint32_t* penalised;  // null: none is
  float penalty;
  int32_t begin;
  int32_t count;

  __device__ __forceinline__ bool is_penalised(int32_t i) const {
    return penalised && (penalised[i / 32] >> i % 32 & 1);
  }
  __device__ __forceinline__ float penalise(int32_t i, float logit) const {
    if (!is_penalised(i)) return logit;
    return logit > 0 ? logit / penalty : logit * penalty;
  }
  __device__ __forceinline__ float score(int32_t i) const {
    return scores ? scores[i] : penalise(i, logits[i]);
  }
};

// Calls use(i, value(i)) for every i below `count` that is this thread's; values are read kBatch at a
// time, so that their latencies overlap.
template <int kBatch, typename Value, typename Use>
__device__ __forceinline__ void each(int32_t count, Value value, Use use) {
  for (int32_t first = static_cast<int32_t>(threadIdx.x); first < count;
       first += kBatch * kThreads) {
    float values[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int32_t i = first + j * kThreads;
      values[j] = i < count ? value(i) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int32_t i = first + j * kThreads;
      if (i < count) use(i, values[j]);
    }
  }
}

// How scores become weights and keys.
struct Rule {
  float greatest;
  float temperature;
  float min_p;
  float inverse;  // of the temperature
  bool by_id;  // no filter needs an order: ids are the order, as in the scalar sampler

  __device__ __forceinline__ float distance(float score) const {
    return (greatest - score) / temperature;
  }
  __device__ __forceinline__ uint64_t weight(float exponential) const {
    return static_cast<uint64_t>(exponential * kWeightUnits + 0.5f);
  }
  __device__ __forceinline__ uint64_t key(float distance, int32_t token) const {
    const uint64_t place = by_id ? 0 : static_cast<uint64_t>(distance * kDistanceUnits);
    return place << kIdBits | static_cast<uint32_t>(token);
  }
  // The distances of keys that begin with `key`, with room for the error of distance_near.
  __device__ __forceinline__ float2 range(uint64_t key, int shift) const {
    const int up = shift > kIdBits ? shift - kIdBits : 0;
    const uint64_t low = (shift < kIdBits ? key >> (kIdBits - shift) : key << up);
    const float from = static_cast<float>(low) / kDistanceUnits;
    const float to = static_cast<float>(low + (uint64_t{1} << up)) / kDistanceUnits;
    return make_float2(from - to * 0x1p-20f - 0x1p-24f, to + to * 0x1p-20f + 0x1p-24f);
  }
  // Whether a token's key may begin with `key`: costs no division.
  __device__ __forceinline__ bool may_begin(float score, int32_t token, uint64_t key, int shift,
                                            float2 range) const {
    if (by_id) return static_cast<uint64_t>(token) >> shift == key;
    const float distance_near = (greatest - score) * inverse;
    return !(distance_near < range.x) && !(distance_near > range.y);  // NaN: look closer
  }
  // Whether a token can be drawn at all, and its weight and key.
  __device__ __forceinline__ bool candidate(float score, int32_t token, uint64_t* weight_out,
                                            uint64_t* key_out) const {
    const float d = distance(score);
    if (!(d < kDistanceMax)) return false;
    const float exponential = expf(-d);
    *weight_out = weight(exponential);
    *key_out = key(d, token);
    return exponential >= min_p && *weight_out > 0;
  }
};

__device__ __forceinline__ void histogram_clear(Histogram* h) {
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) {
    h->count[b] = h->low[b] = h->high[b] = 0;
  }
}

__device__ __forceinline__ void histogram_add(Histogram* h, int digit, uint64_t weight) {
  const uint32_t low = static_cast<uint32_t>(weight);
  uint32_t high = static_cast<uint32_t>(weight >> 32);
  atomicAdd(&h->count[digit], 1u);
  const uint32_t before = atomicAdd(&h->low[digit], low);
  if (before + low < before) ++high;
  if (high) atomicAdd(&h->high[digit], high);
}

// The same for a whole warp whose tokens share a digit.
__device__ __forceinline__ void add_warp(Histogram* h, int digit, uint64_t weight) {
  const uint32_t count = __popc(__ballot_sync(0xffffffffu, weight > 0));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) weight += __shfl_xor_sync(0xffffffffu, weight, step);
  if (count == 0 || threadIdx.x % 32 != 0) return;
  atomicAdd(&h->count[digit], count - 1);
  histogram_add(h, digit, weight);
}

__device__ __forceinline__ Greatest greater(Greatest a, Greatest b) {
  Greatest c = a;
  c.logit = fmaxf(a.logit, b.logit);
  if (b.score > a.score || (b.score == a.score && b.token < a.token)) {
    c.score = b.score;
    c.token = b.token;
  }
  c.finite = a.finite & b.finite;
  return c;
}

__device__ __forceinline__ Greatest warp_greatest(Greatest x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Greatest other = {__shfl_xor_sync(0xffffffffu, x.logit, step),
                            __shfl_xor_sync(0xffffffffu, x.score, step),
                            __shfl_xor_sync(0xffffffffu, x.token, step),
                            __shfl_xor_sync(0xffffffffu, x.finite, step)};
    x = greater(x, other);
  }
  return x;
}

__device__ __forceinline__ Sums warp_sums(Sums x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x.exponentials += __shfl_xor_sync(0xffffffffu, x.exponentials, step);
    x.weights += __shfl_xor_sync(0xffffffffu, x.weights, step);
  }
  return x;
}

__device__ __forceinline__ Greatest none() { return {-INFINITY, -INFINITY, INT32_MAX, 1}; }

template <int kRanks>
struct Row {
  Shared<kRanks>* shared;
  Slice slice;
  float* scores;  // room for the slice's scores in shared memory, or null
  int rank;

  // Greatest logit and score of the row.
  __device__ Greatest find_greatest() {
    Greatest mine = none();
    each<8>(
        slice.count, [&](int32_t i) { return slice.logits[i]; },
        [&](int32_t i, float logit) {
          const float score = slice.penalise(i, logit);
          if (scores) scores[i] = score;
          mine = greater(mine, {logit, score, slice.begin + i, isfinite(logit) ? 1 : 0});
        });
    // A thread reads back only what it has written itself.
    slice.scores = scores;
    mine = warp_greatest(mine);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) shared->warp_greatest[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
      const Greatest all = warp_greatest(lane < kWarps ? shared->warp_greatest[lane] : none());
      if (lane == 0) shared->greatest = all;
    }
    Cluster<kRanks>::sync();
    Greatest all = *Cluster<kRanks>::of(&shared->greatest, 0);
    for (int r = 1; r < kRanks; ++r) {
      all = greater(all, *Cluster<kRanks>::of(&shared->greatest, r));
    }
    return all;
  }

  // Sums over the row; with a temperature also the histogram of the first digit.
  __device__ Sums add_up(float greatest_logit, const Rule& rule, int shift) {
    const bool draws = rule.temperature > 0;
    if (draws) histogram_clear(&shared->histogram);
    __syncthreads();
    float exponentials = 0;
    uint64_t weights = 0;
    // Whole warps, so that they can add up what they have of one digit.
    const int32_t rounded = (slice.count + 31) / 32 * 32;
    each<4>(
        rounded, [&](int32_t i) { return i < slice.count ? slice.score(i) : -INFINITY; },
        [&](int32_t i, float score) {
          const bool real = i < slice.count;
          const float logit = real && slice.is_penalised(i) ? slice.logits[i] : score;
          exponentials += expf(logit - greatest_logit);
          if (!draws) return;
          const float d = real ? rule.distance(score) : kDistanceMax;
          const float exponential = d < kDistanceMax ? expf(-d) : 0.0f;
          const uint64_t weight = rule.weight(exponential);
          weights += weight;
          const uint64_t counted = exponential >= rule.min_p ? weight : 0;
          if (rule.by_id) {
            // 32 ids in a row share a digit: slices begin at multiples of 128.
            add_warp(&shared->histogram, (slice.begin + i) >> shift, counted);
          } else if (counted > 0) {
            histogram_add(&shared->histogram,
                          static_cast<int>(rule.key(d, slice.begin + i) >> shift), counted);
          }
        });
    const Sums mine = warp_sums({static_cast<double>(exponentials), weights});
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) shared->warp_sums[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
      const Sums all = warp_sums(lane < kWarps ? shared->warp_sums[lane] : Sums{0, 0});
      if (lane == 0) shared->sums = all;
    }
    Cluster<kRanks>::sync();
    Sums all = {0, 0};
    for (int r = 0; r < kRanks; ++r) {
      const Sums other = *Cluster<kRanks>::of(&shared->sums, r);
      all.exponentials += other.exponentials;
      all.weights += other.weights;
    }
    return all;
  }

  // Adds the blocks' histograms up. All blocks have filled theirs before, with a sync in between.
  __device__ void total(int which) {
    constexpr int kShare = kBins / kRanks;
    for (int b = static_cast<int>(threadIdx.x); b < kShare; b += kThreads) {
      uint64_t sum = 0;
      uint32_t count = 0;
      for (int r = 0; r < kRanks; ++r) {
        const Histogram* h = Cluster<kRanks>::of(&shared->histogram, r);
        const int digit = rank * kShare + b;
        sum += h->low[digit] + (static_cast<uint64_t>(h->high[digit]) << 32);
        count += h->count[digit];
      }
      shared->totals[which].sum[b] = sum;
      shared->totals[which].count[b] = count;
    }
    Cluster<kRanks>::sync();
  }

  // The digit in which the count before it and in it reaches `count_limit`, or the sum `sum_limit`,
  // whichever comes first; counts and sums start at those given.
  __device__ Found cross(int which, uint32_t count_start, uint64_t sum_start, uint64_t count_limit,
                         uint64_t sum_limit) {
    constexpr int kShare = kBins / kRanks;
    constexpr int kEach = kBins / kThreads;
    const int first = static_cast<int>(threadIdx.x) * kEach;
    const Totals<kRanks>* totals = Cluster<kRanks>::of(&shared->totals[which], first / kShare);
    uint64_t sums[kEach], sum = 0;
    uint32_t counts[kEach], count = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      sums[j] = totals->sum[first % kShare + j];
      counts[j] = totals->count[first % kShare + j];
      sum += sums[j];
      count += counts[j];
    }
    // Inclusive sums over the warp's threads, then over warps.
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    uint64_t sum_to = sum;
    uint32_t count_to = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t s = __shfl_up_sync(0xffffffffu, sum_to, step);
      const uint32_t c = __shfl_up_sync(0xffffffffu, count_to, step);
      if (lane >= step) {
        sum_to += s;
        count_to += c;
      }
    }
    if (lane == 31) {
      shared->scan_sum[warp] = sum_to;
      shared->scan_count[warp] = count_to;
    }
    if (threadIdx.x == 0) shared->found.digit = -1;
    __syncthreads();
    uint64_t sum_before = sum_start + sum_to - sum;
    uint32_t count_before = count_start + count_to - count;
    uint64_t sum_all = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) {
        sum_before += shared->scan_sum[w];
        count_before += shared->scan_count[w];
      }
      sum_all += shared->scan_sum[w];
    }
    if (threadIdx.x == 0) shared->found.sum_all = sum_all;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const bool before = count_before >= count_limit || sum_before >= sum_limit;
      const bool within = count_before + counts[j] >= count_limit || sum_before + sums[j] >= sum_limit;
      if (!before && within) {
        shared->found.sum_before = sum_before;
        shared->found.sum = sums[j];
        shared->found.count_before = count_before;
        shared->found.count = counts[j];
        shared->found.digit = first + j;
      }
      sum_before += sums[j];
      count_before += counts[j];
    }
    __syncthreads();
    const Found found = shared->found;
    __syncthreads();
    return found;
  }

  // From the first digit's crossing on: digit by digit until one token is left. Its key is
  // `*key` << `*shift` and below it nothing.
  __device__ Found narrow(const Rule& rule, Found found, uint64_t count_limit, uint64_t sum_limit,
                          int* shift, uint64_t* key) {
    *key = static_cast<uint64_t>(found.digit);
    while (found.count > 1 && *shift > 0) {
      const int next = *shift > kDigitBits ? *shift - kDigitBits : 0;
      const uint64_t mask = (uint64_t{1} << (*shift - next)) - 1;
      const float2 range = rule.range(*key, *shift);
      histogram_clear(&shared->histogram);
      __syncthreads();
      each<4>(
          slice.count, [&](int32_t i) { return slice.score(i); },
          [&](int32_t i, float score) {
            uint64_t weight, k;
            const int32_t token = slice.begin + i;
            if (!rule.may_begin(score, token, *key, *shift, range)) return;
            if (!rule.candidate(score, token, &weight, &k) || k >> *shift != *key) return;
            histogram_add(&shared->histogram, static_cast<int>(k >> next & mask), weight);
          });
      Cluster<kRanks>::sync();
      total(1);
      found = cross(1, found.count_before, found.sum_before, count_limit, sum_limit);
      *key = *key << (*shift - next) | static_cast<uint32_t>(found.digit);
      *shift = next;
    }
    return found;
  }
};

// What a kernel is launched with.
struct Launch {
  Sampling call;
  int32_t scores_at;  // bytes of shared memory before the scores; 0: they are not kept
};

// Tokens of a block: a multiple of what shares a digit where ids are the order.
__host__ __device__ constexpr int share_of(int vocab_size, int ranks) {
  return (vocab_size + ranks * 128 - 1) / (ranks * 128) * 128;
}

template <int kRanks>
__global__ void __launch_bounds__(kThreads) kernel_sampling(const Launch given) {
  const Sampling& call = given.call;
  extern __shared__ __align__(16) uint8_t shared_bytes[];
  Shared<kRanks>* shared = reinterpret_cast<Shared<kRanks>*>(shared_bytes);
  wait_for_previous_kernel();
  const int out_row = static_cast<int>(blockIdx.x) / kRanks;
  const SampleRow params = call.rows[out_row];
  if (params.position < 0) return;  // the same for all blocks of the row

  const int rank = Cluster<kRanks>::rank();
  const int share = share_of(call.vocab_size, kRanks);
  const int begin = rank * share < call.vocab_size ? rank * share : call.vocab_size;
  const int end = begin + share < call.vocab_size ? begin + share : call.vocab_size;
  const float* logits =
      call.logits + static_cast<size_t>(params.logits_row) * call.logits_stride + begin;
  float* scores =
      given.scores_at ? reinterpret_cast<float*>(shared_bytes + given.scores_at) : nullptr;
  Row<kRanks> row = {shared,
                     {logits, nullptr, nullptr, params.repetition_penalty, begin, end - begin},
                     scores,
                     rank};
  if (params.repetition_penalty != 1.0f && params.recent_count > 0) {
    for (int w = static_cast<int>(threadIdx.x); w < (share + 31) / 32; w += kThreads) {
      shared->penalised[w] = 0;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < params.recent_count; i += kThreads) {
      const int at = call.recent[params.recent_begin + i] - begin;
      if (at >= 0 && at < row.slice.count) atomicOr(&shared->penalised[at / 32], 1u << at % 32);
    }
    __syncthreads();
    row.slice.penalised = shared->penalised;
  }

  const Greatest greatest = row.find_greatest();
  const bool by_id = params.top_k == 0 && params.top_p >= 1.0f;
  const Rule rule = {greatest.score, params.temperature, params.min_p, 1.0f / params.temperature,
                     by_id};
  const int first_shift = (by_id ? kIdBits : kKeyBits) - kDigitBits;
  const Sums sums = row.add_up(greatest.logit, rule, first_shift);
  auto write = [&](int32_t token, float logit) {
    const double normaliser = static_cast<double>(greatest.logit) + log(sums.exponentials);
    call.out[out_row] = {token, static_cast<float>(static_cast<double>(logit) - normaliser),
                         static_cast<int32_t>(Status::kOk), 0};
    if (call.tokens) call.tokens[out_row] = token;
  };

  // What the filters keep, the sum of its weights, and the token that the noise falls on.
  uint64_t key = 0;
  int shift = first_shift;
  bool drawn = false;
  if (greatest.finite && params.temperature > 0) {
    row.total(0);
    const uint64_t count_limit = params.top_k > 0 ? static_cast<uint64_t>(params.top_k) : kNoLimit;
    const uint64_t sum_limit =
        params.top_p < 1.0f ? static_cast<uint64_t>(ceil(static_cast<double>(params.top_p) *
                                                         static_cast<double>(sums.weights)))
                            : kNoLimit;
    Found cut = row.cross(0, 0, 0, count_limit, sum_limit);
    uint64_t kept = cut.sum_all;
    if (cut.digit >= 0) {
      int cut_shift = first_shift;
      uint64_t cut_key;
      cut = row.narrow(rule, cut, count_limit, sum_limit, &cut_shift, &cut_key);
      kept = cut.sum_before + cut.sum;
    }
    if (kept > 0) {
      uint64_t noise = static_cast<uint64_t>(philox_uniform(params.seed, params.position) *
                                             static_cast<double>(kept));
      if (noise >= kept) noise = kept - 1;
      // The scalar sampler adds up from the least likely of an ordered set, from the lowest id else.
      const uint64_t drawn_limit = by_id ? noise + 1 : kept - noise;
      const Found first = row.cross(0, 0, 0, kNoLimit, drawn_limit);
      drawn = first.digit >= 0;
      if (drawn) row.narrow(rule, first, kNoLimit, drawn_limit, &shift, &key);
    }
  }
  if (!greatest.finite) {
    if (rank == 0 && threadIdx.x == 0) {
      call.out[out_row] = {-1, 0.0f, static_cast<int32_t>(Status::kNotFinite), 0};
    }
  } else if (drawn) {
    const float2 range = rule.range(key, shift);
    each<4>(
        row.slice.count, [&](int32_t i) { return row.slice.score(i); },
        [&](int32_t i, float score) {
          uint64_t weight, k;
          if (!rule.may_begin(score, begin + i, key, shift, range)) return;
          if (!rule.candidate(score, begin + i, &weight, &k) || k >> shift != key) return;
          write(begin + i, row.slice.logits[i]);
        });
  } else if (rank == 0 && threadIdx.x == 0) {
    // Greedy; or penalties beyond f32's range left no weight at all.
    const int32_t token = greatest.token < call.vocab_size ? greatest.token : 0;
    write(token, (logits - begin)[token]);
  }
  Cluster<kRanks>::sync();  // others may still read this block's shared memory
}

// Shared memory of a block without and with scores.
template <int kRanks>
size_t shared_bytes_of(int32_t vocab_size, bool keeps_scores) {
  const size_t share = static_cast<size_t>(share_of(vocab_size, kRanks));
  return sizeof(Shared<kRanks>) + share / 32 * sizeof(uint32_t) +
         (keeps_scores ? share * sizeof(float) : 0);
}

template <int kRanks>
cudaError_t launch(const Sampling& call, size_t shared_bytes_max, cudaStream_t stream) {
  const bool keeps = shared_bytes_of<kRanks>(call.vocab_size, true) <= shared_bytes_max;
  const size_t bytes = shared_bytes_of<kRanks>(call.vocab_size, keeps);
  const size_t scores_at = shared_bytes_of<kRanks>(call.vocab_size, false);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel_sampling<kRanks>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  const Launch given = {call, keeps ? static_cast<int32_t>(scores_at) : 0};
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = kRanks;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(call.row_count * kRanks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = kRanks > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel_sampling<kRanks>, given);
}

}  // namespace

cudaError_t sampling_launch(const Sampling& call, cudaStream_t stream) {
  if (call.row_count < 1 || call.row_count > kSampleRowsMax || call.vocab_size < 1 ||
      call.vocab_size > kSampleVocabMax) {
    return cudaErrorInvalidValue;
  }
  int device = 0;
  int major = 0;
  int shared_max = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) return error;
  // Every block has costs of its own: no more of them than run at once (eight that work together are
  // hard to place: about 14 rows on an H100), but as many as keep the scores in shared memory.
  const size_t most = static_cast<size_t>(shared_max);
  if (major < 9) return launch<1>(call, most, stream);
  const int32_t rows = call.row_count;
  const int32_t vocab = call.vocab_size;
  if (rows > 64 && shared_bytes_of<1>(vocab, true) <= most) return launch<1>(call, most, stream);
  if (rows > 32 && shared_bytes_of<2>(vocab, true) <= most) return launch<2>(call, most, stream);
  if (rows > 8 && shared_bytes_of<4>(vocab, true) <= most) return launch<4>(call, most, stream);
  return launch<8>(call, most, stream);
}

}  // namespace leanedge::cuda
