// Runs a kernel's blocks one after another, the threads of each as coroutines. For tests, on Linux.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <setjmp.h>

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

// Operands may lie in each other.
struct Operand {
    u8 *bytes;
    std::size_t size;
};

// Laid out alike in Rust (`kernel::emulated`).
struct Launch {
    const Operand *operands;
    u64 count;
    const void *parameters;
    u64 parameter_bytes;
    u64 blocks;
    u32 threads;
    // 0: threads run in order; 1: backwards. One of them shows a barrier that is missing between two threads.
    u32 order;
};

// Memory with a page behind it that ends the process when it is touched; what is read without having been written is
// a NaN or a large number.
struct Guarded {
    u8 *pages = nullptr, *first = nullptr;
    std::size_t mapped = 0;

    explicit Guarded(std::size_t size) {
        const std::size_t page = 4096;
        mapped = (size + page - 1) / page * page + page;
        void *memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        pages = (u8 *)memory;
        mprotect(pages + mapped - page, page, PROT_NONE);
        first = pages + mapped - page - size;
        std::memset(first, 0xff, size);
    }
    Guarded(const Guarded &) = delete;
    Guarded(Guarded &&other) noexcept { std::swap(pages, other.pages), std::swap(first, other.first), std::swap(mapped, other.mapped); }
    ~Guarded() {
        if (pages) munmap(pages, mapped);
    }
};

// Operands that lie in each other, as one piece of guarded memory.
struct Region {
    u8 *bytes;
    std::size_t size;
    Guarded memory;
};

inline std::vector<Region> regions_of(const Launch &launch) {
    std::vector<std::pair<u8 *, u8 *>> ranges;
    for (u64 i = 0; i < launch.count; ++i)
        ranges.emplace_back(launch.operands[i].bytes, launch.operands[i].bytes + launch.operands[i].size);
    std::sort(ranges.begin(), ranges.end());
    std::vector<std::pair<u8 *, u8 *>> joined;
    for (const auto &range : ranges) {
        if (!joined.empty() && range.first < joined.back().second) {
            joined.back().second = std::max(joined.back().second, range.second);
        } else {
            joined.push_back(range);
        }
    }
    std::vector<Region> regions;
    for (const auto &range : joined) {
        const std::size_t size = (std::size_t)(range.second - range.first);
        regions.push_back(Region{range.first, size, Guarded(size)});
        std::memcpy(regions.back().memory.first, range.first, size);
    }
    return regions;
}

inline u8 *place_of(const std::vector<Region> &regions, const Operand &operand) {
    for (const Region &region : regions)
        if (operand.bytes >= region.bytes && operand.bytes + operand.size <= region.bytes + region.size)
            return region.memory.first + (operand.bytes - region.bytes);
    std::abort();
}

enum class State { ready, at_barrier, at_exchange, ended };

struct Thread {
    // Where it begins, and where it goes on: a jump asks the system for nothing.
    ucontext_t context;
    jmp_buf jump;
    bool has_begun = false;
    void *stack = nullptr;
    State state = State::ready;
    // Where it waits: a number for each place in the text, and its line.
    int place = 0, line = 0;
    u32 exchanged = 0;
};

struct SharedArray {
    const char *name;
    std::size_t size;
    Guarded memory;
};

// All that is of the block that runs.
struct Block {
    std::vector<Thread> threads;
    std::vector<SharedArray> arrays;
    jmp_buf scheduler;
    u32 running = 0;
    // Runs the kernel for the thread `running`.
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
};

inline Block only;
inline Block *const block = &only;
inline const char *kernel = "";
inline std::string message;

__attribute__((noinline)) inline void switch_back() {
    Thread &self = block->threads[block->running];
    if (_setjmp(self.jump) == 0) _longjmp(block->scheduler, 1);
}

__attribute__((noinline)) inline void go_on(u32 thread) {
    block->running = thread;
    Thread &self = block->threads[thread];
    if (_setjmp(block->scheduler) != 0) return;
    if (self.has_begun) _longjmp(self.jump, 1);
    self.has_begun = true;
    setcontext(&self.context);
}

inline void wait(State state, int place, int line) {
    Thread &self = block->threads[block->running];
    self.state = state, self.place = place, self.line = line;
    switch_back();
}

inline void barrier(int place, int line) { wait(State::at_barrier, place, line); }

// What the thread of the same warp whose index differs in the bits of `mask` gives.
inline float exchange(float value, u32 mask, int place, int line) {
    u32 index = block->running;
    block->threads[index].exchanged = std::bit_cast<u32>(value);
    wait(State::at_exchange, place, line);
    // All have come so far; none goes on to another exchange before all have read.
    float other = std::bit_cast<float>(block->threads[index ^ mask].exchanged);
    wait(State::at_exchange, place, line);
    return other;
}

// The block's array of that name: the same for all its threads.
template <typename T> T *shared(const char *name, std::size_t count) {
    for (SharedArray &array : block->arrays)
        if (std::strcmp(array.name, name) == 0) return (T *)array.memory.first;
    block->arrays.push_back(SharedArray{name, count * sizeof(T), Guarded(count * sizeof(T))});
    return (T *)block->arrays.back().memory.first;
}

inline void start() {
    block->body(block->argument);
    block->threads[block->running].state = State::ended;
    // Never comes back.
    switch_back();
}

inline std::vector<u32> ordered(u32 threads, u32 order) {
    std::vector<u32> each(threads);
    for (u32 i = 0; i < threads; ++i) each[i] = i;
    if (order == 1) std::reverse(each.begin(), each.end());
    return each;
}

__attribute__((noinline)) inline void prepare(Thread &thread) {
    const std::size_t stack = 128 * 1024;
    thread.state = State::ready;
    thread.has_begun = false;
    getcontext(&thread.context);
    if (!thread.stack) thread.stack = std::malloc(stack);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = stack;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, (void (*)())start, 0);
}

// Lets threads go on that all wait in one place.
inline bool release(u32 first, u32 count, State state) {
    for (u32 i = first; i < first + count; ++i) {
        const Thread &thread = block->threads[i];
        if (thread.state != state || thread.place != block->threads[first].place) return false;
    }
    for (u32 i = first; i < first + count; ++i) block->threads[i].state = State::ready;
    return true;
}

// Runs all threads to the end, from barrier to barrier.
inline bool run_block(u32 threads, u32 order) {
    for (u32 i = 0; i < threads; ++i) prepare(block->threads[i]);
    const std::vector<u32> each = ordered(threads, order);
    for (;;) {
        for (u32 i : each) {
            if (block->threads[i].state != State::ready) continue;
            go_on(i);
        }
        bool goes_on = false;
        for (u32 first = 0; first < threads; first += 32) goes_on |= release(first, 32, State::at_exchange);
        goes_on = goes_on || release(0, threads, State::at_barrier);
        if (goes_on) continue;
        for (u32 i = 0; i < threads; ++i) {
            const Thread &stuck = block->threads[i];
            if (stuck.state == State::ended) continue;
            const char *what = stuck.state == State::at_barrier ? "of a block come to the barrier" : "of a warp come to the exchange";
            message = std::string(kernel) + ": not all threads " + what + " in line " + std::to_string(stuck.line);
            return false;
        }
        return true;
    }
}

inline void touched(int) {
    static char text[256];
    int length = std::snprintf(text, sizeof text, "the kernel %s touches memory outside its operands\n", kernel);
    if (write(2, text, (std::size_t)length) < 0) _exit(71);
    _exit(70);
}

template <typename Struct, typename... P, std::size_t... I>
void call(void (*function)(const Struct &, Place, P...), const Struct &parameters, Place place,
          const std::vector<u8 *> &places, std::index_sequence<I...>) {
    function(parameters, place, (P)(void *)places[I]...);
}

// The names of all kernels.
inline std::vector<const char *> &names() {
    static std::vector<const char *> all;
    return all;
}

inline bool know(const char *name) {
    names().push_back(name);
    return true;
}

// What went wrong, or null.
template <typename Struct, typename... P>
const char *run(const char *name, void (*function)(const Struct &, Place, P...), const Launch &launch) {
    kernel = name;
    message.clear();
    if (launch.count != sizeof...(P) || launch.parameter_bytes != sizeof(Struct)) {
        message = std::string(name) + " takes " + std::to_string(sizeof...(P)) + " operands and " +
                  std::to_string(sizeof(Struct)) + " bytes of parameters; it is given " + std::to_string(launch.count) +
                  " and " + std::to_string(launch.parameter_bytes);
        return message.c_str();
    }
    if (launch.threads < 32 || launch.threads > 1024 || !std::has_single_bit(launch.threads)) {
        message = std::string(name) + ": " + std::to_string(launch.threads) + " threads to a block";
        return message.c_str();
    }
    std::vector<Region> regions = regions_of(launch);
    std::vector<u8 *> places;
    for (u64 i = 0; i < launch.count; ++i) places.push_back(place_of(regions, launch.operands[i]));
    Struct parameters;
    std::memcpy(&parameters, launch.parameters, sizeof parameters);
    struct Argument {
        void (*function)(const Struct &, Place, P...);
        const Struct *parameters;
        const std::vector<u8 *> *places;
        u64 block, blocks;
        u32 threads;
    } argument{function, &parameters, &places, 0, launch.blocks, launch.threads};
    block->threads.resize(std::max<std::size_t>(block->threads.size(), launch.threads));
    block->argument = &argument;
    block->body = [](void *pointer) {
        const Argument &of = *(const Argument *)pointer;
        Place place{of.block, of.blocks, block->running, of.threads};
        call(of.function, *of.parameters, place, *of.places, std::index_sequence_for<P...>{});
    };
    struct sigaction now = {}, before[2];
    now.sa_handler = touched;
    sigaction(SIGSEGV, &now, &before[0]);
    sigaction(SIGBUS, &now, &before[1]);
    for (u64 i = 0; i < launch.blocks && message.empty(); ++i) {
        argument.block = launch.order == 1 ? launch.blocks - 1 - i : i;
        block->arrays.clear();
        run_block(launch.threads, launch.order);
        std::size_t shared = 0;
        for (const SharedArray &array : block->arrays) shared += array.size;
        if (shared > 32 * 1024) message = std::string(name) + " wants " + std::to_string(shared) + " bytes of a block's memory; there are 32768";
    }
    sigaction(SIGSEGV, &before[0], nullptr);
    sigaction(SIGBUS, &before[1], nullptr);
    if (!message.empty()) return message.c_str();
    for (const Region &region : regions) std::memcpy(region.bytes, region.memory.first, region.size);
    return nullptr;
}

} // namespace emulator

// The name of that number, or null.
extern "C" const char *emulator_kernel(u64 number) {
    return number < emulator::names().size() ? emulator::names()[number] : nullptr;
}
