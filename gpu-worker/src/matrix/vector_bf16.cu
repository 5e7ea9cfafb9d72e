#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_bf16() { return vector_form<MatrixForm::kBf16>(); }

}  // namespace leanedge::cuda
