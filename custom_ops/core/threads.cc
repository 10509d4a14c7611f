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

// To be woken takes longer than calls are apart that follow each other closely, so that a thread may look for a
// while before it sleeps. Not longer: others want the processor, and of threads that sleep, each is woken on one
// of its own.
constexpr auto kLooking = std::chrono::microseconds(50);

template <typename Condition, typename Pass>
void LookFor(const Condition& condition, const Pass& pass) {
  const auto end = std::chrono::steady_clock::now() + kLooking;
  while (!condition() && std::chrono::steady_clock::now() < end) pass();
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
      const auto lock = Lock();
      StartUpTo(threads - 1);
      for (int32_t i = 1; i < threads; ++i) waiting_.push_back(call);
      waits_ = true;
    }
    wake_.notify_all();
    work(0);
    {
      const auto lock = Lock();
      call->closed = true;
    }
    LookFor([&] { return call->running == 0; }, std::this_thread::yield);
    auto lock = Lock();
    call->ended.wait(lock, [&] { return call->running == 0; });
  }

  void BeginSeries() { ++series_; }
  void EndSeries() {
    --series_;
    ++ended_series_;
  }

 private:
  // Nobody has the mutex for long: to sleep until it is free would take more.
  std::unique_lock<std::mutex> Lock() {
    constexpr int kTimes = 1000;
    std::unique_lock lock(mutex_, std::try_to_lock);
    for (int i = 0; i < kTimes && !lock.owns_lock(); ++i) lock.try_lock();
    if (!lock.owns_lock()) lock.lock();
    return lock;
  }

  // To whoever wants the processor; but in a series the next call is near, and a thread of another runtime that
  // looks for work would not give it back.
  void Yield() const {
    if (series_ == 0) std::this_thread::yield();
  }

  void StartUpTo(int32_t count) {
    try {
      while (static_cast<int32_t>(threads_.size()) < count) threads_.emplace_back([this] { Serve(); });
    } catch (const std::system_error&) {  // the system gives no more: those that are there do the work
    }
  }

  void Serve() {
    auto lock = Lock();
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      const std::shared_ptr<Call> call = waiting_.front();
      waiting_.pop_front();
      waits_ = !waiting_.empty();
      if (call->closed) continue;
      const int32_t slot = call->next_slot++, ended = ended_series_;
      ++call->running;
      lock.unlock();
      (*call->work)(slot);
      lock = Lock();
      if (--call->running == 0) call->ended.notify_one();
      lock.unlock();
      LookFor([&] { return waits_ || stopping_ || ended_series_ != ended; }, [&] { Yield(); });
      lock = Lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Call>> waiting_;
  std::atomic<bool> waits_{false};  // whether any does, for who looks without the mutex
  std::atomic<bool> stopping_{false};
  std::atomic<int32_t> series_{0}, ended_series_{0};
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

void Series::Begin() { ThePool().BeginSeries(); }
void Series::End() { ThePool().EndSeries(); }

}  // namespace tfc
