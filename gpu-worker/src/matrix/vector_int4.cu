#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_int4() { return vector_form<MatrixForm::kInt4>(); }

}  // namespace leanedge::cuda
