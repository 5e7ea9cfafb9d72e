// Page flush: one thread block packs one head of one page of one layer. Every step is exact or one
// correctly rounded f32 operation (no contraction, no reciprocal), so that the bytes are the
// reference's.
#include <cuda_fp16.h>

#include "leanedge_cuda/page_flush.h"
#include "plan_device.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kDimMax = 256;

struct Group {
  float min;
  float scale;
  uint16_t min_f16;
  uint16_t max_f16;
  uint16_t scale_f16;
};

__device__ __forceinline__ float f16_value(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

__device__ __forceinline__ bool f16_finite_bits(uint16_t bits) {
  return (bits & 0x7c00u) != 0x7c00u;
}

// docs/page-format.md 2.2, step 2: the smallest f16 s with s * levels >= max - min.
__device__ __forceinline__ uint16_t scale_f16(float min, float max, float levels) {
  const float d = __fsub_rn(max, min);
  if (d == 0) return 0;
  const float min_part = __fsub_rn(max, d);
  const float max_part = __fadd_rn(d, min_part);
  const float e = __fadd_rn(__fsub_rn(max, max_part), __fsub_rn(min_part, min));
  const float quotient = __fdiv_rn(d, levels);
  uint16_t scale = __half_as_ushort(__float2half_rn(quotient));
  if (f16_value(scale) < quotient) ++scale;
  const float reach = __fmul_rn(f16_value(scale), levels);
  if (reach < d || (reach == d && e > 0)) ++scale;
  return scale;
}

__device__ __forceinline__ Group group_of(float min, float max, float levels) {
  Group group;
  group.min = min;
  group.min_f16 = min == 0 ? 0 : __half_as_ushort(__float2half_rn(min));
  group.max_f16 = max == 0 ? 0 : __half_as_ushort(__float2half_rn(max));
  group.scale_f16 = levels == 0 ? 0 : scale_f16(min, max, levels);
  group.scale = f16_value(group.scale_f16);
  return group;
}

__device__ __forceinline__ uint32_t code_of(float x, const Group& group) {
  if (group.scale == 0) return 0;
  return static_cast<uint32_t>(rintf(__fdiv_rn(__fsub_rn(x, group.min), group.scale)));
}

// Writes the codes of a run of 32 values, planar (2.1), as words of 4 bytes. `value(i)` gives value
// i.
template <int kBits, typename Value>
__device__ __forceinline__ void store_run(uint32_t* out, const Group& group, Value value) {
  constexpr int kBytes = 4 * kBits;
#pragma unroll
  for (int word = 0; word < kBytes / 4; ++word) {
    uint32_t bits = 0;
#pragma unroll
    for (int byte = 0; byte < 4; ++byte) {
#pragma unroll
      for (int i = 0; i < 8 / kBits; ++i) {
        bits |= code_of(value(i * kBytes + 4 * word + byte), group) << (8 * byte + kBits * i);
      }
    }
    out[word] = bits;
  }
}

template <typename Value>
__device__ __forceinline__ void store_codes(int bits, uint8_t* out, const Group& group,
                                            Value value) {
  uint32_t* words = reinterpret_cast<uint32_t*>(out);
  if (bits == 8) store_run<8>(words, group, value);
  if (bits == 4) store_run<4>(words, group, value);
  if (bits == 2) store_run<2>(words, group, value);
}

// Least and greatest of 32 values; false where one is not finite.
template <typename Bits>
__device__ __forceinline__ bool range_of(Bits bits, float* min, float* max) {
  bool finite = true;
  *min = *max = f16_value(bits(0));
#pragma unroll
  for (int i = 0; i < kPageSlots; ++i) {
    finite = finite && f16_finite_bits(bits(i));
    const float x = f16_value(bits(i));
    *min = x < *min ? x : *min;
    *max = x > *max ? x : *max;
  }
  return finite;
}

// Rows in shared memory, padded by two values so that a column's 32 slots lie in 32 banks.
__device__ __forceinline__ int padded(int dim) { return dim + 2; }

__global__ void __launch_bounds__(kThreads) kernel_page_flush(const PageFlush call) {
  extern __shared__ __align__(16) uint16_t rows[];  // K then V: (32, padded(head_dim)) f16 each
  const CachePlan& plan = *call.plan;
  const int head_index = static_cast<int>(blockIdx.x);
  const int layer = static_cast<int>(blockIdx.y);
  const PageFlushJob job = call.jobs[blockIdx.z];
  const PageHead head = device_plan_head(plan, layer, head_index);
  if (head.width == 0) return;
  const int dim = plan.head_dim;
  const int pitch = padded(dim);
  uint16_t* k_rows = rows;
  uint16_t* v_rows = rows + kPageSlots * pitch;
  const size_t base = call.zone_layer * static_cast<size_t>(layer) +
                      static_cast<size_t>(head_index) * static_cast<size_t>(job.stride) * dim;
  for (int i = threadIdx.x; i < kPageSlots * dim / 2; i += kThreads) {
    const int slot = i / (dim / 2);
    const int pair = i % (dim / 2);
    int row = job.row + slot;
    if (row >= job.stride) row -= job.stride;
    const size_t from = base + static_cast<size_t>(row) * dim + 2 * pair;
    *reinterpret_cast<uint32_t*>(k_rows + slot * pitch + 2 * pair) =
        *reinterpret_cast<const uint32_t*>(job.k + from);
    *reinterpret_cast<uint32_t*>(v_rows + slot * pitch + 2 * pair) =
        *reinterpret_cast<const uint32_t*>(job.v + from);
  }
  __syncthreads();

  uint8_t* block =
      call.arenas[layer] + static_cast<size_t>(job.page) * device_plan_layer(plan, layer).bytes;
  const uint16_t* channels = device_plan_channels(plan) + head.channels;
  const int k_bits = storage_bits(plan.k_storage);
  const int v_bits = storage_bits(plan.v_storage);
  bool finite = true;
  for (int c = threadIdx.x; c < static_cast<int>(head.width); c += kThreads) {
    const uint16_t* column = k_rows + channels[c];
    auto bits = [&](int slot) { return column[slot * pitch]; };
    float min, max;
    finite = range_of(bits, &min, &max) && finite;
    const Group group = group_of(min, max, k_bits == 16 ? 0.0f : storage_levels(plan.k_storage));
    uint8_t* run = block + head.k_values + c * plan.k_channel_bytes;
    if (k_bits == 16) {
      for (int slot = 0; slot < kPageSlots; slot += 2) {
        reinterpret_cast<uint32_t*>(run)[slot / 2] =
            bits(slot) | static_cast<uint32_t>(bits(slot + 1)) << 16;
      }
    } else {
      store_codes(k_bits, run, group, [&](int slot) { return f16_value(bits(slot)); });
      reinterpret_cast<uint16_t*>(block + head.k_scale)[c] = group.scale_f16;
    }
    if (head.k_min != kNoSection) {
      reinterpret_cast<uint16_t*>(block + head.k_min)[c] = group.min_f16;
    }
    if (head.k_max != kNoSection) {
      reinterpret_cast<uint16_t*>(block + head.k_max)[c] = group.max_f16;
    }
  }
  if (v_bits == 16) {
    for (int i = threadIdx.x; i < kPageSlots * dim / 2; i += kThreads) {
      const int slot = i / (dim / 2);
      const uint32_t two =
          *reinterpret_cast<const uint32_t*>(v_rows + slot * pitch + 2 * (i % (dim / 2)));
      finite = finite && f16_finite_bits(static_cast<uint16_t>(two)) &&
               f16_finite_bits(static_cast<uint16_t>(two >> 16));
      reinterpret_cast<uint32_t*>(block + head.v_values)[i] = two;
    }
  } else {
    for (int i = threadIdx.x; i < kPageSlots * plan.v_groups; i += kThreads) {
      const int slot = i % kPageSlots;
      const int g = i / kPageSlots;
      const uint16_t* run_values = v_rows + slot * pitch + g * kGroupChannels;
      auto bits = [&](int j) { return run_values[j]; };
      float min, max;
      finite = range_of(bits, &min, &max) && finite;
      const Group group = group_of(min, max, storage_levels(plan.v_storage));
      uint8_t* run = block + head.v_values + slot * plan.v_row_bytes + g * 4 * v_bits;
      store_codes(v_bits, run, group, [&](int j) { return f16_value(bits(j)); });
      reinterpret_cast<uint16_t*>(block + head.v_scale)[i] = group.scale_f16;
      reinterpret_cast<uint16_t*>(block + head.v_min)[i] = group.min_f16;
    }
  }
  if (!__syncthreads_and(finite) && threadIdx.x == 0) atomicAdd(call.not_finite, 1u);
}

}  // namespace

cudaError_t page_flush_launch(const CachePlan& plan, const PageFlush& call, cudaStream_t stream) {
  // Whole groups of 32 channels: shorter last groups have another planar pitch.
  if (plan.evicting || plan.head_dim % kGroupChannels != 0 || plan.head_dim > kDimMax) {
    return cudaErrorInvalidValue;
  }
  if (call.job_count == 0) return cudaSuccess;
  const size_t shared = 2 * kPageSlots * static_cast<size_t>(plan.head_dim + 2) * sizeof(uint16_t);
  const dim3 grid(static_cast<unsigned>(plan.kv_heads), static_cast<unsigned>(plan.layers),
                  static_cast<unsigned>(call.job_count));
  kernel_page_flush<<<grid, kThreads, shared, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace leanedge::cuda
