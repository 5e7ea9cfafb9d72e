#include "block_product.cuh"

namespace leanedge::cuda {

BlockForm block_form_fp8(int32_t inputs) { return block_form<MatrixForm::kFp8>(inputs); }

}  // namespace leanedge::cuda
