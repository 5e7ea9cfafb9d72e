#include "block_product.cuh"

namespace leanedge::cuda {

BlockForm block_form_int4(int32_t inputs) { return block_form<MatrixForm::kInt4>(inputs); }

}  // namespace leanedge::cuda
