// Matrices, rows and drawing, as plainly as can be.
#include <math.h>
#include <string.h>

#include <vector>

#include "dtype.h"
#include "host_device.h"
#include "leanedge/half.h"
#include "leanedge_cuda/matrix.h"
#include "leanedge_cuda/rows.h"
#include "leanedge_cuda/sampling.h"
#include "row_kernels.h"
#include "sampler.h"

namespace leanedge::cuda {
namespace {

using std::vector;

size_t at(int32_t row, int32_t cols) { return static_cast<size_t>(row) * static_cast<size_t>(cols); }

uint16_t to_bf16(float x) {
  const uint32_t bits = f32_bits(x);
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16(uint16_t x) { return f32_from_bits(static_cast<uint32_t>(x) << 16); }

float weight_of(Dtype dtype, const uint8_t* row, int32_t col) {
  const uint8_t* block = row + static_cast<size_t>(col / 32) * dtype_unit_bytes(dtype);
  uint16_t half = 0;
  float x = 0;
  switch (dtype) {
    case Dtype::kF32: memcpy(&x, row + 4 * col, 4); return x;
    case Dtype::kF16: memcpy(&half, row + 2 * col, 2); return f16_to_f32(half);
    case Dtype::kBF16: memcpy(&half, row + 2 * col, 2); return from_bf16(half);
    case Dtype::kQ8_0:
      memcpy(&half, block, 2);
      return f16_to_f32(half) * static_cast<float>(static_cast<int8_t>(block[2 + col % 32]));
    case Dtype::kQ4_0: {
      memcpy(&half, block, 2);
      const int nibble = block[2 + col % 16] >> (col % 32 < 16 ? 0 : 4) & 15;
      return f16_to_f32(half) * static_cast<float>(nibble - 8);
    }
    default: return 0;
  }
}

float norm_scale(const float* x, int32_t dim, float eps) {
  double sum = 0;
  for (int32_t i = 0; i < dim; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return static_cast<float>(1 / sqrt(sum / dim + static_cast<double>(eps)));
}

void product(const Matrix& m, const MatrixProduct& call) {
  const float* weights = reinterpret_cast<const float*>(m.data);
  vector<float> x(static_cast<size_t>(m.cols));
  vector<float> y(static_cast<size_t>(m.rows));
  for (int32_t i = 0; i < call.inputs; ++i) {
    for (int32_t c = 0; c < m.cols; ++c) {
      x[static_cast<size_t>(c)] = call.x ? from_bf16(call.x[at(i, m.cols) + static_cast<size_t>(c)])
                                         : 0;
    }
    if (!call.x) {
      const float* row = call.norm_x + at(i, m.cols);
      const float scale = norm_scale(row, m.cols, call.norm_eps);
      for (int32_t c = 0; c < m.cols; ++c) {
        x[static_cast<size_t>(c)] = from_bf16(to_bf16(row[c] * scale * call.norm_weight[c]));
      }
    }
    for (int32_t r = 0; r < m.rows; ++r) {
      float sum = call.bias ? call.bias[r] : 0;
      const float* w = weights + at(r, m.cols);
      for (int32_t c = 0; c < m.cols; ++c) sum += w[c] * x[static_cast<size_t>(c)];
      y[static_cast<size_t>(r)] = sum;
    }
    for (int32_t r = 0; r < m.rows; ++r) {
      const float value = y[static_cast<size_t>(r)];
      const size_t to = at(i, m.rows) + static_cast<size_t>(r);
      switch (call.output) {
        case MatrixOutput::kBf16: static_cast<uint16_t*>(call.out)[to] = to_bf16(value); break;
        case MatrixOutput::kF32: static_cast<float*>(call.out)[to] = value; break;
        case MatrixOutput::kResidual: static_cast<float*>(call.out)[to] += value; break;
        case MatrixOutput::kSwiglu:
          if (r % 2) {
            const float gate = y[static_cast<size_t>(r - 1)];
            static_cast<uint16_t*>(call.out)[at(i, m.rows / 2) + static_cast<size_t>(r / 2)] =
                to_bf16(gate / (1 + expf(-gate)) * value);
          }
      }
    }
  }
}

}  // namespace

size_t matrix_bytes(MatrixForm, int32_t rows, int32_t cols) { return at(rows, cols) * 4; }
Status matrix_clear_launch(const Matrix& matrix, cudaStream_t, ErrorDetail*) {
  memset(matrix.data, 0xff, matrix_bytes(matrix.form, matrix.rows, matrix.cols));
  return Status::kOk;
}
Status matrix_pack_launch(const Matrix& matrix, const MatrixPart& part, cudaStream_t,
                          ErrorDetail*) {
  const size_t row_bytes = dtype_row_bytes(part.dtype, matrix.cols);
  for (int32_t i = 0; i < part.rows; ++i) {
    int32_t to = i;
    if (part.rope_dim > 0) {
      const int32_t channel = i % part.head_dim;
      const int32_t half = channel / 2 + (channel % 2 ? part.rope_dim / 2 : 0);
      if (channel < part.rope_dim) to = i - channel + half;
    }
    float* out = reinterpret_cast<float*>(matrix.data) +
                 at(part.to_row + to * part.to_step, matrix.cols);
    const uint8_t* row = part.raw + static_cast<size_t>(i) * row_bytes;
    for (int32_t c = 0; c < matrix.cols; ++c) out[c] = weight_of(part.dtype, row, c);
  }
  return Status::kOk;
}
Status matrix_rows_launch(const Matrix& matrix, const MatrixRows& call, cudaStream_t,
                          ErrorDetail*) {
  host_launch([=] {
    for (int32_t i = 0; i < call.count; ++i) {
      const int32_t id = call.ids ? call.ids[i] : call.first + i;
      const float* from = reinterpret_cast<const float*>(matrix.data) + at(id < 0 ? 0 : id, matrix.cols);
      for (int32_t c = 0; c < matrix.cols; ++c) {
        call.out[at(i, matrix.cols) + static_cast<size_t>(c)] = id < 0 ? 0 : from[c];
      }
    }
  });
  return Status::kOk;
}
size_t matrix_context_bytes() { return 256; }
Status matrix_context_create(uint8_t*, bool, cudaStream_t, MatrixContext**, ErrorDetail*) {
  return Status::kOk;
}
void matrix_context_destroy(MatrixContext*) {}
Status matrix_product_launch(MatrixContext*, const Matrix& matrix, const MatrixProduct& call,
                             cudaStream_t, ErrorDetail*) {
  host_launch([=] { product(matrix, call); });
  return Status::kOk;
}

cudaError_t rmsnorm_launch(const RmsNorm& call, cudaStream_t) {
  return host_launch([=] {
    for (int32_t r = 0; r < call.rows; ++r) {
      const float* x = call.x + at(call.gather ? call.gather[r] : r, call.dim);
      const float scale = norm_scale(x, call.dim, call.eps);
      for (int32_t i = 0; i < call.dim; ++i) {
        static_cast<uint16_t*>(call.y)[at(r, call.dim) + static_cast<size_t>(i)] =
            to_bf16(x[i] * scale * call.weight[i]);
      }
    }
  });
}
cudaError_t gather_rows_launch(const GatherRows& call, cudaStream_t) {
  return host_launch([=] {
    for (int32_t r = 0; r < call.rows; ++r) {
      memcpy(call.out + at(r, call.dim), call.x + at(call.index[r], call.dim), at(4, call.dim));
    }
  });
}
cudaError_t rope_angles_launch(const RopeAngles& call, cudaStream_t) {
  return host_launch([=] {
    for (int32_t r = 0; r < call.rows; ++r) {
      for (int32_t i = 0; i < call.pairs; ++i) {
        const double angle = (call.positions[r] < 0 ? 0 : call.positions[r]) * call.frequency[i];
        float2& to = call.angles[at(r, call.pairs) + static_cast<size_t>(i)];
        to.x = static_cast<float>(cos(angle) * call.magnitude);
        to.y = static_cast<float>(sin(angle) * call.magnitude);
      }
    }
  });
}

namespace {

// One head of one row: normed, turned, in place.
void turn(const RotateWrite& c, int32_t row, const float* norm, float* head) {
  if (norm) {
    const float scale = norm_scale(head, c.head_dim, c.eps);
    for (int32_t i = 0; i < c.head_dim; ++i) head[i] *= scale * norm[i];
  }
  for (int32_t i = 0; i < c.rope_dim / 2; ++i) {
    const float2 angle = c.angles[at(row, c.rope_dim / 2) + static_cast<size_t>(i)];
    const float a = head[i];
    const float b = head[i + c.rope_dim / 2];
    head[i] = a * angle.x - b * angle.y;
    head[i + c.rope_dim / 2] = b * angle.x + a * angle.y;
  }
}

void rotate(const RotateWrite& c, int32_t row) {
  const int32_t heads = c.heads + 2 * c.kv_heads;
  vector<float> head(static_cast<size_t>(c.head_dim));
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t i = 0; i < c.head_dim; ++i) {
      const size_t from = at(row, heads * c.head_dim) + at(h, c.head_dim) + static_cast<size_t>(i);
      head[static_cast<size_t>(i)] = c.qkv_type == Dtype::kF32
                                         ? static_cast<const float*>(c.qkv)[from]
                                         : from_bf16(static_cast<const uint16_t*>(c.qkv)[from]);
    }
    if (h < c.heads + c.kv_heads) turn(c, row, h < c.heads ? c.q_norm : c.k_norm, head.data());
    for (int32_t i = 0; i < c.head_dim; ++i) {
      const float x = head[static_cast<size_t>(i)];
      if (h < c.heads) {
        const size_t to = at(row, c.heads * c.head_dim) + at(h, c.head_dim) + static_cast<size_t>(i);
        if (c.q_f32) c.q_f32[to] = x;
        if (c.q_f16) static_cast<uint16_t*>(c.q_f16)[to] = f32_to_f16(x);
        continue;
      }
      const KvTarget& target = c.targets[row];
      if (!target.k) continue;
      const bool value = h >= c.heads + c.kv_heads;
      const int32_t kv = h - c.heads - (value ? c.kv_heads : 0);
      uint16_t* to = (value ? target.v : target.k) + static_cast<size_t>(c.layer) * c.zone_layer +
                     at(kv * target.stride, c.head_dim) + i;
      *to = f32_to_f16(x);
      if (!f16_finite(*to)) c.not_finite[row] = 1;
    }
  }
}

}  // namespace

cudaError_t rotate_write_launch(const RotateWrite& call, cudaStream_t) {
  return host_launch([=] {
    for (int32_t r = 0; r < call.rows; ++r) rotate(call, r);
  });
}

cudaError_t flag_owners_launch(uint32_t* bad, const int32_t* owners, uint32_t* sequences,
                               int32_t rows, cudaStream_t) {
  return host_launch([=] {
    for (int32_t r = 0; r < rows; ++r) {
      if (bad[r] && owners[r] >= 0) sequences[owners[r]] = 1;
      bad[r] = 0;
    }
  });
}

cudaError_t square_sums_launch(const SquareSums& call, cudaStream_t) {
  return host_launch([=] {
    const int32_t q_dim = call.heads * call.head_dim;
    for (int32_t r = 0; r < call.rows; ++r) {
      const KvTarget& target = call.targets[r];
      for (int32_t c = 0; c < call.kv_heads * call.head_dim; ++c) {
        const size_t from = call.zone_offset + at(c / call.head_dim * target.stride, call.head_dim);
        const double x = static_cast<double>(f16_to_f32(target.k[from + static_cast<size_t>(c % call.head_dim)]));
        call.sums[c] += x * x;
      }
      for (int32_t c = 0; c < q_dim && r >= call.q_from; ++c) {
        const size_t from = at(r, q_dim) + static_cast<size_t>(c);
        const double x = static_cast<double>(call.q_f32 ? call.q_f32[from] : f16_to_f32(call.q_f16[from]));
        call.sums[call.kv_heads * call.head_dim + c] += x * x;
      }
    }
  });
}

cudaError_t row_copy_launch(const RowCopy* copies, int32_t copy_count, int32_t rows_max,
                            int32_t kv_heads, int32_t head_dim, cudaStream_t) {
  return host_launch([=] {
    for (int32_t i = 0; i < copy_count; ++i) {
      const RowCopy& c = copies[i];
      if (c.rows > rows_max) abort();
      const size_t bytes = at(c.rows, head_dim) * 2;
      for (int32_t h = 0; h < kv_heads; ++h) {
        memcpy(c.to_k + at(h * c.to_stride, head_dim), c.k + at(h * c.from_stride, head_dim), bytes);
        memcpy(c.to_v + at(h * c.to_stride, head_dim), c.v + at(h * c.from_stride, head_dim), bytes);
      }
    }
  });
}

cudaError_t sampling_launch(const Sampling& call, cudaStream_t) {
  return host_launch([=] {
    vector<Candidate> candidates(static_cast<size_t>(call.vocab_size));
    Sampler sampler = {candidates.data(), call.vocab_size};
    for (int32_t i = 0; i < call.row_count; ++i) {
      const SampleRow& row = call.rows[i];
      if (row.position < 0) continue;
      const SamplingParams params = {row.temperature, row.top_k, row.top_p, row.min_p,
                                     row.repetition_penalty, kRepetitionWindowMax, row.seed};
      const SampleResult drawn =
          sample(&sampler, params,
                 call.logits + static_cast<size_t>(row.logits_row) * call.logits_stride,
                 call.recent + row.recent_begin, row.recent_count, row.position);
      call.out[i] = {drawn.token, drawn.logprob, static_cast<int32_t>(drawn.status), 0};
    }
  });
}

}  // namespace leanedge::cuda
