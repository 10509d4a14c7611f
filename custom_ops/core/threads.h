// Runs tasks on several threads.
#ifndef TFCOMPRESS_THREADS_H_
#define TFCOMPRESS_THREADS_H_

#include <cstdint>
#include <functional>

namespace tfc {

// Calls work(slot) on up to `threads` threads, this one among them, each with a slot of its own in
// [0, threads); returns when all calls have ended. Whoever is called takes tasks until there are no more: a
// thread that comes late is not waited for.
void RunOnThreads(int32_t threads, const std::function<void(int32_t)>& work);

// While one lives, calls follow each other closely: threads that have ended one keep their processors until the
// next. At its end they leave these to others at once.
struct Series {
  Series() { Begin(); }
  ~Series() { End(); }
  Series(const Series&) = delete;
  Series& operator=(const Series&) = delete;

  static void Begin();
  static void End();
};

}  // namespace tfc

#endif  // TFCOMPRESS_THREADS_H_
