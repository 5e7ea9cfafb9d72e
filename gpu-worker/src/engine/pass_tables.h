// What a pass tells its kernels: ids, positions, where K and V go, zones and page numbers of every row.
// Written on the host, copied once, the same for every layer.
#pragma once

#include "device.h"
#include "leanedge_cuda/prefill_attention.h"
#include "pass.h"

namespace leanedge::cuda {

// Groups of one pass: one for each entry at most, and one more for each kDecodeRowsMax rows.
inline constexpr int32_t kPassGroupsMax = kStepEntriesMax + kRowsMax / kDecodeRowsMax;

// Rows that share a launch of rotation and attention: neighbours in the batch, of one plan.
struct PassGroup {
  int32_t plan;
  int32_t decodes;  // 1: each row sees the zones as they stand at its position; 0: prompt rows
  int32_t selects;  // 1: each row chooses its pages
  int32_t row;      // first row of the batch
  int32_t rows;
  size_t zone_layer;  // of KvTarget: 0 where K and V go to dense rows
  DecodeForm form;    // decodes: of attention over what its rows read
  // decodes: rows as they are, and as they read what they chose.
  DecodeStep step;
  DecodeStep chosen;
  // Prompt rows.
  const PrefillRun* runs;
  const PrefillTile* tiles;
  int32_t tile_count;
  int32_t has_pages;
  int32_t slots_max;  // that a row sees
};

// Tables of one pass; pointers into device memory.
struct PassTables {
  const int32_t* ids;         // (rows) -1: padding
  const int32_t* positions;   // (rows) -1: padding
  const int32_t* owners;      // (rows) handles of the rows' sequences; -1: padding
  const int32_t* last;        // (run_count) the last row of each run
  const KvTarget* targets;    // (rows)
  const Run* runs;            // (run_count) on the host
  int32_t rows;               // padding included
  int32_t run_count;
  int32_t group_count;
  PassGroup groups[kPassGroupsMax];
};

// Writes tables one behind the other, for the host and with the addresses that the device will see.
struct TableWriter {
  uint8_t* host;
  uint8_t* image;
  uint64_t used;
  uint64_t bytes;  // room
};

// Bytes that the tables of any pass of an engine take at most.
uint64_t tables_bytes_max(const Engine& engine, int32_t pages_max);
// Bytes that the tables of these runs take at most, `padded` rows in all.
uint64_t tables_bytes(const Engine& engine, const Run* runs, int32_t run_count, int32_t padded);
// Fills in the tables of `runs`; rows from theirs up to `padded` are padding, for which there must be one
// group. Where each array lies follows from `padded` alone if there is one group that decodes.
void tables_build(const Engine& engine, const Run* runs, int32_t run_count, int32_t padded,
                  TableWriter* writer, PassTables* out);
// Whether all rows of a pass decode, under one plan: what a graph can replay. `rows` are theirs.
bool tables_uniform(const Engine& engine, const Run* runs, int32_t run_count, int32_t rows);

}  // namespace leanedge::cuda
