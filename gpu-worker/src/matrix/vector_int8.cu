#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_int8() { return vector_form<MatrixForm::kInt8>(); }

}  // namespace leanedge::cuda
