#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

// Calls work(task, thread) for every task, on threads that take one at a time. Each has its own copy of work.
template <class Work> static void parallel(long tasks, int threads, Work work) {
    std::atomic<long> next{0};
    auto run = [&](int thread) {
        Work own = work;
        for (long task; (task = next++) < tasks;) own(task, thread);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < std::min<long>(threads, tasks); ++t) others.emplace_back(run, t);
    run(0);
    for (auto& other : others) other.join();
}
