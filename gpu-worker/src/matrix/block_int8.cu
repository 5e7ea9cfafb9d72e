#include "block_product.cuh"

namespace leanedge::cuda {

BlockForm block_form_int8(int32_t inputs) { return block_form<MatrixForm::kInt8>(inputs); }

}  // namespace leanedge::cuda
