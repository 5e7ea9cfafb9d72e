#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_int4(bool beside) {
  return beside ? vector_form<MatrixForm::kInt4, true>() : vector_form<MatrixForm::kInt4, false>();
}

}  // namespace leanedge::cuda
