// Host side of the product of quantised weights with 5 to 128 rows of activations: shares, and the launch.
#include "block_product.h"

#include <cuda_runtime.h>

#include "../launch.h"
#include "layout.h"

namespace leanedge::cuda {
namespace {

BlockForm form_of(MatrixForm form, int32_t inputs) {
  switch (form) {
    case MatrixForm::kFp8: return block_form_fp8(inputs);
    case MatrixForm::kInt8: return block_form_int8(inputs);
    case MatrixForm::kInt4: return block_form_int4(inputs);
    case MatrixForm::kBf16:
    case MatrixForm::kF16: break;
  }
  return {};
}

int32_t divide_up(int32_t steps, int32_t parts) { return (steps + parts - 1) / parts; }

}  // namespace

bool block_serves(const Matrix& matrix, const MatrixProduct& call, int32_t shared_max) {
  const bool quantised = matrix.form != MatrixForm::kBf16 && matrix.form != MatrixForm::kF16;
  return quantised && call.x && call.inputs > kMatrixVectorRowsMax &&
         call.inputs <= kBlockInputsMax &&
         form_of(matrix.form, call.inputs).shared_bytes <= shared_max;
}

cudaError_t block_prepare(int32_t shared_max) {
  for (const MatrixForm form : {MatrixForm::kFp8, MatrixForm::kInt8, MatrixForm::kInt4}) {
    for (const int32_t inputs : {16, 32, 64, 128}) {
      const BlockForm kernel = form_of(form, inputs);
      if (kernel.shared_bytes > shared_max) continue;
      const cudaError_t error = cudaFuncSetAttribute(
          reinterpret_cast<const void*>(kernel.kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
          kernel.shared_bytes);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

size_t block_parts_bytes(int32_t processors) {
  const size_t fragments = static_cast<size_t>(kWarpTiles) * kBlockInputsMax / 8;
  return 2 * static_cast<size_t>(processors) * fragments * kBlockThreads * sizeof(float4);
}

cudaError_t block_launch(const Matrix& matrix, const MatrixProduct& call, int32_t processors, bool alone,
                         uint8_t* parts, uint8_t* counters, cudaStream_t stream) {
  const BlockForm form = form_of(matrix.form, call.inputs);
  const int32_t row_blocks = (matrix.rows + kBlockRows - 1) / kBlockRows;
  BlockArgs args = {};
  args.data = matrix.data;
  args.row_scales = matrix.form == MatrixForm::kFp8 ? row_scales_of(matrix) : nullptr;
  args.x = call.x;
  args.bias = call.bias;
  args.out = call.out;
  args.parts = reinterpret_cast<float4*>(parts);
  args.arrived = reinterpret_cast<uint32_t*>(counters);
  args.left = args.arrived + kRowBlocksMax;
  args.tile_bytes = static_cast<int64_t>(tile_bytes(matrix.form, matrix.cols));
  args.code_base = kCodeBase;
  args.rows = matrix.rows;
  args.cols = matrix.cols;
  args.inputs = call.inputs;
  args.output = call.output;
  args.steps_real = steps_of(matrix.cols);
  int32_t blocks = 0;
  if (alone && 2 * row_blocks <= processors) {
    args.sliced = 1;
    args.share = divide_up(args.steps_real, processors / row_blocks);
    const int32_t shares = divide_up(args.steps_real, args.share);
    args.steps = args.share * shares;
    blocks = row_blocks * shares;
    args.total = row_blocks * args.steps;
  } else {
    args.steps = args.steps_real;
    args.total = row_blocks * args.steps;
    args.share = divide_up(args.total, processors);
    blocks = divide_up(args.total, args.share);
  }
  return launch({reinterpret_cast<const void*>(form.kernel), blocks, kBlockThreads,
                 static_cast<size_t>(form.shared_bytes), call.overlap != 0},
                args, stream);
}

}  // namespace leanedge::cuda
