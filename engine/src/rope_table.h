// Rotation angles: a frequency for each pair of channels, and tables of cosines for rows.
#pragma once

#include "leanedge/model.h"

namespace leanedge {

struct RopeTable {
  double frequency[kHeadDimMax / 2];  // (pairs) radians a token
  double magnitude;                   // multiplies cosines and sines (YaRN)
  int32_t pairs;                      // rope_dim / 2
};

// Frequencies of a model; `factors` (pairs) divide them, null for none.
void rope_table_init(RopeTable* table, const ModelConfig& config, const float* factors);
// Cosines and sines of the row at `position`: (pairs) each. Computed per row and not kept for the
// whole context: 32 pairs cost about 2 us next to milliseconds of products, a table for 8,192
// tokens would cost 2 MiB that the cache can use.
void rope_table_row(const RopeTable& table, int32_t position, float* cosines, float* sines);

}  // namespace leanedge
