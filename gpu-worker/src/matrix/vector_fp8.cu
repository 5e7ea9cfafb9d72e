#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_fp8() { return vector_form<MatrixForm::kFp8>(); }

}  // namespace leanedge::cuda
