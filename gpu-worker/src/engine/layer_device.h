// The launches of one layer over the rows of a pass.
#pragma once

#include "pass_tables.h"

namespace leanedge::cuda {

// Which of a layer's rows go on behind its attention.
enum class Continue : int32_t {
  kAll = 0,   // x in, x out
  kLast = 1,  // the last row of each run: row i of scratch.last becomes that of run i
  kNone = 2,  // none: K and V are all that is wanted
};

// Launches layer `layer`: K and V of all rows go to their targets, x (rows, dim) goes on.
void layer_launch(const Engine& engine, const PassTables& tables, int32_t layer, float* x,
                  Continue rows);

}  // namespace leanedge::cuda
