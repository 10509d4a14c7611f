#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace tfc {
namespace {

// To be woken takes longer than most calls are apart, so that a thread looks for a while before it sleeps. It
// yields meanwhile to whoever else wants the processor. With 200 us, threads came to share a processor for good
// while another one was idle, and two were no faster than one; of those that sleep, each is woken on one of its
// own.
template <typename Condition>
void LookFor(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

// A call to RunOnThreads. Workers hold it by a shared pointer, since one may look at it after it ended.
struct Call {
  const std::function<void(int32_t)>* work;
  int32_t next_slot = 1;  // slot 0 is the caller's
  std::atomic<int32_t> running{0};
  bool closed = false;  // no worker may begin any more
  std::condition_variable ended;
};

// Threads that are started when first needed, and joined when the library is unloaded.
class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(int32_t threads, const std::function<void(int32_t)>& work) {
    const auto call = std::make_shared<Call>();
    call->work = &work;
    {
      const std::lock_guard lock(mutex_);
      StartUpTo(threads - 1);
      for (int32_t i = 1; i < threads; ++i) waiting_.push_back(call);
      waits_ = true;
    }
    wake_.notify_all();
    work(0);
    {
      const std::lock_guard lock(mutex_);
      call->closed = true;
    }
    LookFor([&] { return call->running == 0; });
    std::unique_lock lock(mutex_);
    call->ended.wait(lock, [&] { return call->running == 0; });
  }

 private:
  void StartUpTo(int32_t count) {
    try {
      while (static_cast<int32_t>(threads_.size()) < count) threads_.emplace_back([this] { Serve(); });
    } catch (const std::system_error&) {  // the system gives no more: those that are there do the work
    }
  }

  void Serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      const std::shared_ptr<Call> call = waiting_.front();
      waiting_.pop_front();
      waits_ = !waiting_.empty();
      if (call->closed) continue;
      const int32_t slot = call->next_slot++;
      ++call->running;
      lock.unlock();
      (*call->work)(slot);
      lock.lock();
      if (--call->running == 0) call->ended.notify_one();
      lock.unlock();
      LookFor([&] { return waits_ || stopping_; });
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Call>> waiting_;
  std::atomic<bool> waits_{false};  // whether any does, for who looks without the mutex
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

Pool& ThePool() {
  static Pool pool;
  // A child of fork() has the pool, but not its threads, and its end would wait for them: it begins anew.
  static const int handled = pthread_atfork(nullptr, nullptr, [] { new (&pool) Pool; });
  static_cast<void>(handled);
  return pool;
}

}  // namespace

void RunOnThreads(int32_t threads, const std::function<void(int32_t)>& work) {
  if (threads == 1) return work(0);
  ThePool().Run(threads, work);
}

}  // namespace tfc
