// A thread that runs what would keep the event loop waiting: one job after the other.
#pragma once

#include <pthread.h>
#include <stdint.h>

namespace leanedge::addon {

// Jobs that may wait. The engine takes one call at a time, so more would only hide a mistake.
inline constexpr int32_t kJobsMax = 1;

struct Job {
  void (*run)(Job* job);  // on the thread
};

class WorkThread {
 public:
  // Starts the thread; 0, or why there is none (errno).
  int start();
  // Hands a job over; false where kJobsMax wait already.
  bool post(Job* job);
  // Lets what waits finish, then ends the thread. Blocks until then.
  void stop();

 private:
  static void* loop(void* self);
  void run_jobs();

  pthread_t thread_ = {};
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
  Job* job_ = nullptr;
  bool started_ = false;
  bool stopping_ = false;
};

}  // namespace leanedge::addon
