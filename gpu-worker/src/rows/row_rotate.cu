// Rotation angles of a pass, and what follows the product of wq, wk and wv: bias, norm per head,
// rotation, and the write of K and V to their places in the cache. A warp takes one head of one row.
#include "../kernels/variants.h"
#include "leanedge_cuda/rows.h"
#include "row_ops.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kPairs = kHeadDimMax / 2 / 32;  // pairs of channels a lane holds

__global__ void kernel_rope_angles(const RopeAngles call) {
  wait_for_previous_kernel();
  const int pair = static_cast<int>(threadIdx.x);
  if (pair >= call.pairs) return;
  const int position = call.positions[blockIdx.x] < 0 ? 0 : call.positions[blockIdx.x];
  double sine, cosine;
  sincos(position * call.frequency[pair], &sine, &cosine);
  call.angles[blockIdx.x * static_cast<size_t>(call.pairs) + static_cast<size_t>(pair)] =
      make_float2(static_cast<float>(cosine * call.magnitude),
                  static_cast<float>(sine * call.magnitude));
}

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ bool half_finite(__half x) {
  return (__half_as_ushort(x) & 0x7c00) != 0x7c00;
}

// Channels that lane holds as its pair j: those that turn together, then those beyond rope_dim, in
// which first and second half make the pairs.
struct PairChannels {
  int first;
  int second;
  int angle;  // index of the pair's angle; -1: it does not turn
};
__device__ __forceinline__ PairChannels pair_channels(int pair, int head_dim, int rope_dim) {
  const int turning = rope_dim / 2;
  if (pair < turning) return {pair, pair + turning, pair};
  const int first = rope_dim + pair - turning;
  return {first, first + (head_dim - rope_dim) / 2, -1};
}

// kEarly: attention behind this kernel starts beside the product before it, and has its pages on their way when q comes.
template <typename In, bool kEarly>
__global__ void __launch_bounds__(kThreads) kernel_rotate_write(const RotateWrite call) {
  if constexpr (kEarly) release_next_kernel();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int heads_all = call.heads + 2 * call.kv_heads;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const size_t row = blockIdx.x;
  const size_t dim = static_cast<size_t>(call.head_dim);
  const bool is_q = head < call.heads;
  const bool is_v = head >= call.heads + call.kv_heads;
  // Targets were written before the kernel before this one began; what is read behind the wait is asked for at once.
  KvTarget target = {};
  if (!is_q && head < heads_all) target = call.targets[row];
  wait_for_previous_kernel();
  if (head >= heads_all) return;
  const In* in = static_cast<const In*>(call.qkv) +
                 (row * static_cast<size_t>(heads_all) + static_cast<size_t>(head)) * dim;
  const float* bias = call.bias ? call.bias + static_cast<size_t>(head) * dim : nullptr;
  const float* norm = is_v ? nullptr : is_q ? call.q_norm : call.k_norm;
  const int pairs = call.head_dim / 2;

  float a[kPairs], b[kPairs];
  float2 turn[kPairs];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    a[j] = b[j] = 0;
    const int pair = lane + 32 * j;
    if (pair >= pairs) continue;
    const PairChannels at = pair_channels(pair, call.head_dim, call.rope_dim);
    if (!is_v && at.angle >= 0) {
      turn[j] = call.angles[row * static_cast<size_t>(call.rope_dim / 2) +
                            static_cast<size_t>(at.angle)];
    }
    a[j] = as_float(in[at.first]) + (bias ? bias[at.first] : 0.0f);
    b[j] = as_float(in[at.second]) + (bias ? bias[at.second] : 0.0f);
    squares += a[j] * a[j] + b[j] * b[j];
  }
  if (norm) {
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(call.head_dim) + call.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int pair = lane + 32 * j;
      if (pair >= pairs) continue;
      const PairChannels at = pair_channels(pair, call.head_dim, call.rope_dim);
      a[j] = a[j] * scale * norm[at.first];
      b[j] = b[j] * scale * norm[at.second];
    }
  }

  __half* kv_row = nullptr;
  if (!is_q) {
    if (!target.k) return;
    const size_t kv_head = static_cast<size_t>(head - call.heads - (is_v ? call.kv_heads : 0));
    kv_row = reinterpret_cast<__half*>(is_v ? target.v : target.k) +
             call.zone_layer * static_cast<size_t>(call.layer) +
             kv_head * static_cast<size_t>(target.stride) * dim;
  }
  const size_t q_row = (row * static_cast<size_t>(call.heads) + static_cast<size_t>(head)) * dim;
  bool finite = true;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = lane + 32 * j;
    if (pair >= pairs) continue;
    const PairChannels at = pair_channels(pair, call.head_dim, call.rope_dim);
    float x = a[j];
    float y = b[j];
    if (!is_v && at.angle >= 0) {
      x = a[j] * turn[j].x - b[j] * turn[j].y;
      y = a[j] * turn[j].y + b[j] * turn[j].x;
    }
    auto each = [&](int channel, float value) {
      if (kv_row) {
        const __half rounded = __float2half_rn(value);
        finite = finite && half_finite(rounded);
        kv_row[channel] = rounded;
        return;
      }
      const size_t to = q_row + static_cast<size_t>(channel);
      if (call.q_f32) call.q_f32[to] = value;
      if (call.q_bf16) static_cast<__nv_bfloat16*>(call.q_bf16)[to] = __float2bfloat16_rn(value);
      if (call.q_f16) static_cast<__half*>(call.q_f16)[to] = __float2half_rn(value);
    };
    each(at.first, x);
    each(at.second, y);
  }
  if (!finite) call.not_finite[row] = 1;
}

// A kernel with another division of the first-level cache could not run beside its neighbours.
template <typename In, bool kEarly>
cudaError_t launch_rotate(const RotateWrite& call, dim3 grid, cudaStream_t stream) {
  static const cudaError_t prepared =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_rotate_write<In, kEarly>),
                           cudaFuncAttributePreferredSharedMemoryCarveout,
                           cudaSharedmemCarveoutMaxShared);
  if (prepared != cudaSuccess) return prepared;
  return launch_overlapped(kernel_rotate_write<In, kEarly>, grid, kThreads, 0, call, stream);
}

template <typename In>
cudaError_t launch_rotate(const RotateWrite& call, dim3 grid, cudaStream_t stream) {
  return variants().rotate_early ? launch_rotate<In, true>(call, grid, stream)
                                 : launch_rotate<In, false>(call, grid, stream);
}

}  // namespace

cudaError_t rope_angles_launch(const RopeAngles& call, cudaStream_t stream) {
  if (call.rows < 1 || call.rows > kRowsMax || call.pairs < 1 || call.pairs > kHeadDimMax / 2) {
    return cudaErrorInvalidValue;
  }
  return launch_overlapped(kernel_rope_angles, dim3(static_cast<unsigned>(call.rows)),
                           dim3(static_cast<unsigned>((call.pairs + 31) / 32 * 32)), 0, call,
                           stream);
}

cudaError_t rotate_write_launch(const RotateWrite& call, cudaStream_t stream) {
  const int32_t heads_all = call.heads + 2 * call.kv_heads;
  if (call.rows < 1 || call.rows > kRowsMax || call.heads < 1 || call.kv_heads < 1 ||
      heads_all > kDimMax || call.head_dim < 2 || call.head_dim > kHeadDimMax ||
      call.head_dim % 2 != 0 || call.rope_dim < 2 || call.rope_dim > call.head_dim ||
      call.rope_dim % 2 != 0) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(static_cast<unsigned>(call.rows),
                  static_cast<unsigned>((heads_all + kWarps - 1) / kWarps));
  if (call.qkv_type == Dtype::kF32) {
    return launch_rotate<float>(call, grid, stream);
  }
  if (call.qkv_type == Dtype::kBF16) {
    return launch_rotate<__nv_bfloat16>(call, grid, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace leanedge::cuda
