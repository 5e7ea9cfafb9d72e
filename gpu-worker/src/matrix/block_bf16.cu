#include "block_product.cuh"

namespace leanedge::cuda {

BlockForm block_form_bf16(int32_t inputs) { return block_form<MatrixForm::kBf16>(inputs); }

}  // namespace leanedge::cuda
