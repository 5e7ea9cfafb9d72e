// Serialised caches (docs/page-format.md, section 3): written piece by piece from any offset, read
// back as a stream. Neither side holds more than the header.
#pragma once

#include "engine_state.h"
#include "leanedge/snapshot.h"

namespace leanedge {

// Header of a sequence's snapshot. It holds the longest part of the cache that ends where a reader
// can go on from: not inside a prompt segment.
void snapshot_describe(const Engine& engine, const Sequence& sequence, SnapshotHeader* header);
// Copies bytes [offset, offset + bytes) of a snapshot without its checksum; the range is within.
void snapshot_copy(const Engine& engine, const Sequence& sequence, uint64_t offset, uint8_t* out,
                   int32_t bytes);

// Begins to restore the empty sequence `handle` from a snapshot of `bytes` bytes.
void restore_begin(Engine* engine, int32_t handle, uint64_t bytes);
// The next bytes. Any error leaves the sequence to be freed by the caller.
Status restore_write(Engine* engine, const uint8_t* data, int32_t bytes);

}  // namespace leanedge
