#include "vector_product.cuh"

namespace leanedge::cuda {

VectorForm vector_form_f16() { return vector_form<MatrixForm::kF16>(); }

}  // namespace leanedge::cuda
