// Drawing one token a row. Eight thread blocks (fewer where there are many rows, one before sm_90) share
// a row's vocabulary and agree through each other's shared memory. There is no sort: what top_k and top_p
// keep ends where a running count or a running sum of weights crosses a limit (sample_search.cuh), and the
// draw within what is left is another such search.
#include <math.h>

#include "../../../engine/src/philox.h"
#include "cluster.cuh"
#include "leanedge_cuda/sampling.h"
#include "row_ops.cuh"
#include "sample_row.cuh"
#include "sample_search.cuh"

namespace leanedge::cuda {
namespace sample {
namespace {

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
  Search<kRanks> search = {shared, row.slice, rank};
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
    search.total(0);
    const uint64_t count_limit = params.top_k > 0 ? static_cast<uint64_t>(params.top_k) : kNoLimit;
    const uint64_t sum_limit =
        params.top_p < 1.0f ? static_cast<uint64_t>(ceil(static_cast<double>(params.top_p) *
                                                         static_cast<double>(sums.weights)))
                            : kNoLimit;
    Found cut = search.cross(0, 0, 0, count_limit, sum_limit);
    uint64_t kept = cut.sum_all;
    if (cut.digit >= 0) {
      int cut_shift = first_shift;
      uint64_t cut_key;
      cut = search.narrow(rule, cut, count_limit, sum_limit, &cut_shift, &cut_key);
      kept = cut.sum_before + cut.sum;
    }
    if (kept > 0) {
      uint64_t noise = static_cast<uint64_t>(philox_uniform(params.seed, params.position) *
                                             static_cast<double>(kept));
      if (noise >= kept) noise = kept - 1;
      // The scalar sampler adds up from the least likely of an ordered set, from the lowest id else.
      const uint64_t drawn_limit = by_id ? noise + 1 : kept - noise;
      const Found first = search.cross(0, 0, 0, kNoLimit, drawn_limit);
      drawn = first.digit >= 0;
      if (drawn) search.narrow(rule, first, kNoLimit, drawn_limit, &shift, &key);
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
}  // namespace sample

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
  if (major < 9) return sample::launch<1>(call, most, stream);
  const int32_t rows = call.row_count;
  const int32_t vocab = call.vocab_size;
  if (rows > 64 && sample::shared_bytes_of<1>(vocab, true) <= most) {
    return sample::launch<1>(call, most, stream);
  }
  if (rows > 32 && sample::shared_bytes_of<2>(vocab, true) <= most) {
    return sample::launch<2>(call, most, stream);
  }
  if (rows > 8 && sample::shared_bytes_of<4>(vocab, true) <= most) {
    return sample::launch<4>(call, most, stream);
  }
  return sample::launch<8>(call, most, stream);
}

}  // namespace leanedge::cuda
