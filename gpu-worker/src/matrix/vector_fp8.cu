#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_fp8(bool beside) {
  return beside ? vector_form<MatrixForm::kFp8, true>() : vector_form<MatrixForm::kFp8, false>();
}

}  // namespace leanedge::cuda
