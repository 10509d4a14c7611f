// How many threads the op may use.
#ifndef TFCOMPRESS_TF_THREAD_COUNT_H_
#define TFCOMPRESS_TF_THREAD_COUNT_H_

#include <cstdint>

// What UseThreads() was last given. Without it, or after 0: TF_NUM_INTRAOP_THREADS, which TensorFlow obeys, too;
// where that is not set, the processors that this process may run on. At least 1.
int32_t ThreadsToUse();

// Of this process: a saved model goes to machines with other numbers of processors. 0 is the default again.
void UseThreads(int32_t threads);

#endif  // TFCOMPRESS_TF_THREAD_COUNT_H_
