#include "work_thread.h"

namespace leanedge::addon {

int WorkThread::start() {
  const int error = pthread_create(&thread_, nullptr, &WorkThread::loop, this);
  started_ = error == 0;
  return error;
}

bool WorkThread::post(Job* job) {
  pthread_mutex_lock(&mutex_);
  const bool free = started_ && !stopping_ && !job_;
  if (free) job_ = job;
  pthread_cond_signal(&changed_);
  pthread_mutex_unlock(&mutex_);
  return free;
}

void WorkThread::stop() {
  if (!started_) return;
  pthread_mutex_lock(&mutex_);
  stopping_ = true;
  pthread_cond_signal(&changed_);
  pthread_mutex_unlock(&mutex_);
  pthread_join(thread_, nullptr);
  started_ = false;
}

void* WorkThread::loop(void* self) {
  static_cast<WorkThread*>(self)->run_jobs();
  return nullptr;
}

void WorkThread::run_jobs() {
  pthread_mutex_lock(&mutex_);
  for (;;) {
    while (!job_ && !stopping_) pthread_cond_wait(&changed_, &mutex_);
    if (!job_) break;
    Job* job = job_;
    job_ = nullptr;
    pthread_mutex_unlock(&mutex_);
    job->run(job);
    pthread_mutex_lock(&mutex_);
  }
  pthread_mutex_unlock(&mutex_);
}

}  // namespace leanedge::addon
