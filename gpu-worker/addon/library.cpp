#include "library.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

namespace leanedge::addon {

struct Library {
  char path[4096];
  Calls calls;
  bool in_use;
};

namespace {

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
Library* libraries[kLibrariesMax];
int32_t library_count;

template <typename Function>
bool resolve(void* handle, const char* name, Function* out, char* error) {
  *out = reinterpret_cast<Function>(dlsym(handle, name));
  if (*out) return true;
  snprintf(error, kErrorBytesMax, "the library has no function %s", name);
  return false;
}

bool resolve_all(void* handle, Calls* c, char* error) {
  return resolve(handle, "le_abi_version", &c->abi_version, error) &&
         resolve(handle, "le_backend", &c->backend, error) &&
         resolve(handle, "le_error", &c->error, error) &&
         resolve(handle, "le_engine_create", &c->engine_create, error) &&
         resolve(handle, "le_weights_write", &c->weights_write, error) &&
         resolve(handle, "le_plan_add", &c->plan_add, error) &&
         resolve(handle, "le_engine_start", &c->engine_start, error) &&
         resolve(handle, "le_engine_close", &c->engine_close, error) &&
         resolve(handle, "le_sequence_create", &c->sequence_create, error) &&
         resolve(handle, "le_sequence_free", &c->sequence_free, error) &&
         resolve(handle, "le_sequence_append", &c->sequence_append, error) &&
         resolve(handle, "le_sequence_truncate", &c->sequence_truncate, error) &&
         resolve(handle, "le_sequence_drop_cache", &c->sequence_drop_cache, error) &&
         resolve(handle, "le_sequence_fork", &c->sequence_fork, error) &&
         resolve(handle, "le_sequence_sampling", &c->sequence_sampling, error) &&
         resolve(handle, "le_sequence_stats", &c->sequence_stats, error) &&
         resolve(handle, "le_sequence_ids", &c->sequence_ids, error) &&
         resolve(handle, "le_plan_sequence_bytes", &c->plan_sequence_bytes, error) &&
         resolve(handle, "le_observe", &c->observe, error) &&
         resolve(handle, "le_observed", &c->observed, error) &&
         resolve(handle, "le_step", &c->step, error) &&
         resolve(handle, "le_logits", &c->logits, error) &&
         resolve(handle, "le_engine_stats", &c->engine_stats, error) &&
         resolve(handle, "le_snapshot_bytes", &c->snapshot_bytes, error) &&
         resolve(handle, "le_snapshot_read", &c->snapshot_read, error) &&
         resolve(handle, "le_snapshot_begin", &c->snapshot_begin, error) &&
         resolve(handle, "le_snapshot_write", &c->snapshot_write, error);
}

// A copy of the file in memory; its descriptor, or -1. The descriptor stays open as long as the image is
// loaded, so that its name stays its own.
int copy_in_memory(const char* path) {
  const int from = open(path, O_RDONLY | O_CLOEXEC);
  if (from < 0) return -1;
  const int to = memfd_create("leanedge-engine", MFD_CLOEXEC);
  struct stat file = {};
  bool good = to >= 0 && fstat(from, &file) == 0;
  for (off_t at = 0; good && at < file.st_size;) {
    good = sendfile(to, from, &at, static_cast<size_t>(file.st_size - at)) > 0;
  }
  close(from);
  if (good) return to;
  if (to >= 0) close(to);
  return -1;
}

// Opens the file, or a copy of it where an engine has the file's own image.
void* open_image(const char* path, bool taken, char* error) {
  char name[4096];
  snprintf(name, sizeof name, "%s", path);
  if (taken) {
    const int copy = copy_in_memory(path);
    if (copy < 0) {
      snprintf(error, kErrorBytesMax, "a second image of the library cannot be made: %s",
               strerror(errno));
      return nullptr;
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", copy);
  }
  void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!handle) snprintf(error, kErrorBytesMax, "%s", dlerror());
  return handle;
}

Library* acquire_locked(const char* path, char* error) {
  bool taken = false;
  for (int32_t i = 0; i < library_count; ++i) {
    if (strcmp(libraries[i]->path, path) != 0) continue;
    if (!libraries[i]->in_use) return libraries[i];
    taken = true;
  }
  if (library_count == kLibrariesMax) {
    snprintf(error, kErrorBytesMax, "%d engines are open in this process, at most %d",
             library_count, kLibrariesMax);
    return nullptr;
  }
  if (strlen(path) >= sizeof Library::path) {
    snprintf(error, kErrorBytesMax, "the library's path has %zu bytes, at most %zu", strlen(path),
             sizeof Library::path - 1);
    return nullptr;
  }
  Library* library = static_cast<Library*>(calloc(1, sizeof(Library)));
  if (!library) {
    snprintf(error, kErrorBytesMax, "no memory");
    return nullptr;
  }
  strcpy(library->path, path);
  void* handle = open_image(path, taken, error);
  bool good = handle && resolve_all(handle, &library->calls, error);
  if (good && library->calls.abi_version() != kAbiVersion) {
    snprintf(error, kErrorBytesMax,
             "the library speaks version %d of the engine's boundary, must be %d",
             library->calls.abi_version(), kAbiVersion);
    good = false;
  }
  if (!good) {
    free(library);
    return nullptr;
  }
  libraries[library_count++] = library;
  return library;
}

}  // namespace

Library* library_acquire(const char* path, char* error) {
  pthread_mutex_lock(&mutex);
  Library* library = acquire_locked(path, error);
  if (library) library->in_use = true;
  pthread_mutex_unlock(&mutex);
  return library;
}

void library_release(Library* library) {
  pthread_mutex_lock(&mutex);
  library->in_use = false;
  pthread_mutex_unlock(&mutex);
}

const Calls& library_calls(const Library& library) { return library.calls; }

}  // namespace leanedge::addon
