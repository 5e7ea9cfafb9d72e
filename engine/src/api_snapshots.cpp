// The boundary (leanedge/engine.h): serialised caches.
#include "api_state.h"
#include "error.h"
#include "snapshot_io.h"

using namespace leanedge;

extern "C" {

uint64_t le_snapshot_bytes(int32_t handle) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return 0;
  SnapshotHeader header;
  snapshot_describe(engine, *sequence, &header);
  return header.checksum_offset;
}

int32_t le_snapshot_read(int32_t handle, uint64_t offset, uint8_t* out, int32_t bytes) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  const uint64_t all = le_snapshot_bytes(handle);
  if (!out || bytes < 0 || offset > all || static_cast<uint64_t>(bytes) > all - offset) {
    const int64_t at = static_cast<int64_t>(offset);
    const int64_t end = static_cast<int64_t>(all);
    return code(error_set(&engine.error, Status::kInvalidArgument, at, end,
                          "# bytes from # on are not all in a snapshot of # bytes",
                          {bytes, at, end}));
  }
  snapshot_copy(engine, *sequence, offset, out, bytes);
  return 0;
}

int32_t le_snapshot_begin(int32_t plan, uint64_t bytes) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (engine.restore.active) {
    return code(error_set(&engine.error, Status::kWrongState, engine.restore.handle, 0,
                          "sequence # is being restored: one at a time", {engine.restore.handle}));
  }
  if (bytes < sizeof(SnapshotHeader)) {
    const int64_t value = static_cast<int64_t>(bytes);
    const int64_t bound = static_cast<int64_t>(sizeof(SnapshotHeader));
    return code(error_set(&engine.error, Status::kInvalidSnapshot, value, bound,
                          "snapshot: # bytes are fewer than a header of #", {value, bound}));
  }
  const int32_t handle = le_sequence_create(plan);
  if (handle >= 0) restore_begin(&engine, handle, bytes);
  return handle;
}

int32_t le_snapshot_write(int32_t handle, uint64_t offset, const uint8_t* data, int32_t bytes) {
  if (!find_any_sequence(handle)) return find_error();
  const Restore& restore = engine.restore;
  const bool active = restore.active && restore.handle == handle;
  const uint64_t left = active ? restore.bytes - restore.offset : 0;
  if (!active || offset != restore.offset || !data || bytes < 0 ||
      static_cast<uint64_t>(bytes) > left) {
    const int64_t at = static_cast<int64_t>(offset);
    const int64_t next = static_cast<int64_t>(active ? restore.offset : 0);
    const int64_t rest = static_cast<int64_t>(left);
    return code(error_set(&engine.error, Status::kWrongState, at, next,
                          "# bytes came for sequence # at #, expected were at most # at #",
                          {bytes, handle, at, rest, next}));
  }
  const Status status = restore_write(&engine, data, bytes);
  if (status != Status::kOk) {
    const ErrorDetail error = engine.error;
    le_sequence_free(handle);
    engine.error = error;
  }
  return code(status);
}

}  // extern "C"
