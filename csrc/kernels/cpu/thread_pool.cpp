#include "kernels/cpu/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace fidfast {
namespace {

struct Job {
    const std::function<void(int64_t)>* body;
    int64_t items;
    std::atomic<int64_t> next{0};
    std::mutex error_mutex;
    std::exception_ptr error;

    void work() {
        try {
            for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) (*body)(item);
        } catch (...) {
            std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
            next.store(items, std::memory_order_relaxed);
        }
    }
};

// Never destroyed: its threads sleep until the process ends.
class Pool {
public:
    // False if another job is running.
    bool run(Job& job, int helpers) {
        std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
        if (!busy) return false;
        std::unique_lock<std::mutex> lock(mutex_);
        try {
            for (; started_ < helpers; started_++) std::thread(&Pool::serve, this).detach();
        } catch (const std::system_error&) {
            // the process may start no more threads: the ones there are do the work
        }
        job_ = &job;
        places_ = helpers < started_ ? helpers : started_;
        lock.unlock();
        wake_.notify_all();
        job.work();
        lock.lock();
        places_ = 0;  // who has not come yet need not
        done_.wait(lock, [this] { return active_ == 0; });
        job_ = nullptr;
        return true;
    }

private:
    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return places_ > 0; });
            places_--;
            active_++;
            Job* job = job_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int started_ = 0, places_ = 0, active_ = 0;
};

using OpenMPParallel = void(void (*work)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<Pool*> pool{nullptr};
std::atomic<bool> forked{false};

// Of the OpenMP library that torch brought, if this process has one: its threads go on spinning for milliseconds after
// every convolution of oneDNN, and would take the cores from a second pool.
OpenMPParallel* openmp_parallel() {
    static OpenMPParallel* const found = reinterpret_cast<OpenMPParallel*>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return forked ? nullptr : found;
}

// The threads of the parent do not exist in the child, and its locks may be held for ever: the child starts anew. Said
// when the module loads: a fork before the first call here finds torch's threads already started.
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] {
    pool.store(nullptr);
    forked = true;
});

Pool& the_pool() {
    Pool* current = pool.load();
    if (!current) {
        Pool* fresh = new Pool;
        if (pool.compare_exchange_strong(current, fresh)) return *fresh;
        delete fresh;
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& body) {
    Job job;
    job.body = &body;
    job.items = items;
    const int64_t helpers = (items < threads ? items : threads) - 1;
    const auto work = [](void* data) { static_cast<Job*>(data)->work(); };
    if (helpers <= 0)
        job.work();
    else if (OpenMPParallel* const parallel = openmp_parallel())
        parallel(work, &job, unsigned(helpers + 1), 0);
    else if (!the_pool().run(job, int(helpers)))
        job.work();
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace fidfast
