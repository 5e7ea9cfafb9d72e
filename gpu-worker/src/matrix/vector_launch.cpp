// Host side of the product with few rows of activations: how a matrix is shared out, and the launch.
#include <cuda_runtime.h>

#include <initializer_list>

#include "../kernels/variants.h"
#include "../launch.h"
#include "layout.h"
#include "vector_product.h"

namespace leanedge::cuda {
namespace {

// Steps that a warp should have of a tile, so that its barrier is rare.
constexpr int32_t kWarpStepsMin = 4;
// Bytes of shared memory that the system takes of each block.
constexpr int32_t kSharedReserve = 1024;

VectorForm form_of(MatrixForm form) {
  switch (form) {
    case MatrixForm::kBf16: return vector_form_bf16();
    case MatrixForm::kF16: return vector_form_f16();
    case MatrixForm::kFp8: return vector_form_fp8();
    case MatrixForm::kInt8: return vector_form_int8();
    case MatrixForm::kInt4: return vector_form_int4();
  }
  return {};
}

// The same where more warps a tile make the blocks' shares more equal.
constexpr int32_t kWarpStepsLeast = 2;

// Blocks of one kind: how many a launch has at once, and their warps.
struct Blocks {
  VectorKernel kernel;
  int32_t count;
  int32_t warps;
  int32_t shared_max;  // bytes that each may have
};

// Tiles of the block that has most of them.
int32_t tiles_most(int32_t tiles, const Blocks& blocks, int32_t warps) {
  const int32_t groups = blocks.warps / warps;
  const int32_t at_once = blocks.count * groups;
  return (tiles + at_once - 1) / at_once * groups;
}

// Warps that share a tile: as many as leave each a few steps.
int32_t warps_of_tile(int32_t steps, int32_t tiles, const Blocks& blocks) {
  int32_t warps = blocks.warps;
  while (warps > 1 && steps < warps * kWarpStepsMin) warps /= 2;
  while (variants().balance && warps < blocks.warps && steps >= 2 * warps * kWarpStepsLeast &&
         tiles_most(tiles, blocks, 2 * warps) < tiles_most(tiles, blocks, warps)) {
    warps *= 2;
  }
  return warps;
}

int32_t shared_bytes(const VectorForm& form, int32_t cols, int32_t inputs, int32_t warps, int32_t k_warps) {
  const int32_t steps = (cols + form.step_cols - 1) / form.step_cols;
  return warps * form.ring_bytes + vector_sum_bytes(inputs, warps) + kVectorSquareBytes + kVectorBarrierBytes +
         warps / k_warps * vector_group_bytes(steps * form.step_units, inputs, form.unit_sums);
}

// What a kernel takes of columns col .. col + cols - 1 and activations from row `first` on.
VectorArgs args_of(const Matrix& matrix, const MatrixProduct& call, const VectorForm& form,
                   int32_t first, int32_t inputs, int32_t col, int32_t cols, int32_t k_warps) {
  VectorArgs args = {};
  const bool row_major = form_row_major(matrix.form);
  const size_t out_row = static_cast<size_t>(call.output == MatrixOutput::kSwiglu ? matrix.rows / 2
                                                                                 : matrix.rows) *
                         (call.output == MatrixOutput::kF32 || call.output == MatrixOutput::kResidual
                              ? sizeof(float)
                              : sizeof(uint16_t));
  const size_t x_at = static_cast<size_t>(first) * static_cast<size_t>(matrix.cols) +
                      static_cast<size_t>(col);
  args.data = matrix.data + (row_major ? static_cast<size_t>(col) * 2
                                       : static_cast<size_t>(col / kStepCols) *
                                             static_cast<size_t>(step_bytes(matrix.form)));
  args.row_scales = matrix.form == MatrixForm::kFp8 ? row_scales_of(matrix) : nullptr;
  args.x = call.x ? call.x + x_at : nullptr;
  args.norm_x = call.norm_x ? call.norm_x + x_at : nullptr;
  args.norm_weight = call.norm_weight;
  args.norm_eps = call.norm_eps;
  args.bias = col == 0 ? call.bias : nullptr;
  args.out = static_cast<uint8_t*>(call.out) + static_cast<size_t>(first) * out_row;
  args.tile_bytes = static_cast<int64_t>(tile_bytes(matrix.form, matrix.cols));
  args.rows = matrix.rows;
  args.cols = cols;
  args.row_bytes = 2 * matrix.cols;
  args.x_pitch = matrix.cols;
  args.tiles = tiles_of(matrix.rows);
  args.steps = (cols + form.step_cols - 1) / form.step_cols;
  args.k_warps = k_warps;
  args.inputs = inputs;
  args.code_base = kCodeBase;
  args.output = call.output;
  return args;
}

cudaError_t launch_part(const Matrix& matrix, const MatrixProduct& call, const VectorForm& form, const Blocks& of,
                        int32_t first, int32_t inputs, int32_t col, int32_t cols, int32_t k_warps, bool overlap,
                        bool last, cudaStream_t stream) {
  VectorArgs args = args_of(matrix, call, form, first, inputs, col, cols, k_warps);
  const int32_t groups = of.warps / k_warps;
  const int32_t wanted = (args.tiles + groups - 1) / groups;
  const int32_t blocks = wanted < of.count ? wanted : of.count;
  if (last) {
    // The last part asks for what comes behind the product.
    args.next = call.next;
    args.next_bytes = call.next_bytes / static_cast<uint32_t>(blocks * of.warps) / 16 * 16;
  }
  return launch({reinterpret_cast<const void*>(of.kernel), blocks, 32 * of.warps,
                 static_cast<size_t>(shared_bytes(form, cols, inputs, of.warps, k_warps)), overlap},
                args, stream);
}

}  // namespace

cudaError_t vector_prepare(int32_t shared_max) {
  for (const VectorForm& form :
       {vector_form_bf16(), vector_form_f16(), vector_form_int8(), vector_form_fp8(),
        vector_form_int4()}) {
    for (const VectorKernel of : {form.kernel, form.halves}) {
      if (!of) continue;
      const void* kernel = reinterpret_cast<const void*>(of);
      cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               shared_max);
      if (error == cudaSuccess) {
        // What runs before and behind: kernels of another division of the first-level cache would wait for its end.
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
      }
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t vector_launch(const Matrix& matrix, const MatrixProduct& call, int32_t processors,
                          int32_t shared_max, cudaStream_t stream) {
  const VectorForm form = form_of(matrix.form);
  int32_t inputs = call.inputs;
  int32_t cols = matrix.cols;
  const bool adds = call.output == MatrixOutput::kResidual && !call.norm_x;
  const int32_t tiles = tiles_of(matrix.rows);
  Blocks blocks = {form.kernel, processors, kVectorWarps, shared_max};
  auto k_warps_of = [&](int32_t part_cols) {
    const int32_t steps = (part_cols + form.step_cols - 1) / form.step_cols;
    return warps_of_tile(steps, tiles, blocks);
  };
  auto fits = [&]() { return shared_bytes(form, cols, inputs, blocks.warps, k_warps_of(cols)) <= blocks.shared_max; };
  if (form.halves && variants().halves) {
    const Blocks whole = blocks;
    blocks = {form.halves, 2 * processors, kVectorHalfWarps, (shared_max + kSharedReserve) / 2 - kSharedReserve};
    if (!fits()) blocks = whole;
  }
  // Activations that do not fit shared memory: where the output is added to, the columns are taken
  // in parts, and weights are still read once; else the rows are.
  while (!fits()) {
    if (adds) {
      cols = (cols / 2 + kStepCols - 1) / kStepCols * kStepCols;
    } else {
      inputs = (inputs + 1) / 2;
    }
  }
  bool overlap = call.overlap != 0;
  for (int32_t first = 0; first < call.inputs; first += inputs) {
    for (int32_t col = 0; col < matrix.cols; col += cols) {
      const int32_t part_inputs = inputs < call.inputs - first ? inputs : call.inputs - first;
      const int32_t part_cols = cols < matrix.cols - col ? cols : matrix.cols - col;
      const bool last = first + part_inputs == call.inputs && col + part_cols == matrix.cols;
      const cudaError_t error =
          launch_part(matrix, call, form, blocks, first, part_inputs, col, part_cols, k_warps_of(part_cols),
                      overlap, last, stream);
      if (error != cudaSuccess) return error;
      overlap = true;  // weights were complete before the first of them
    }
  }
  return cudaSuccess;
}

}  // namespace leanedge::cuda
