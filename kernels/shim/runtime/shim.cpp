// The scheduler of the CPU shim: fibers, their collectives, shared memory, and the checks.
//
// A fiber is made with makecontext, once, and then reused by every block; switching is _setjmp and _longjmp, which,
// unlike swapcontext, call no kernel. (QEMU's coroutines do it so.) A launch that fails leaves fibers in the middle of
// a kernel: they are thrown away with their stacks. Device code holds nothing that would have to be released.
#include "shim.h"

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <string>
#include <ucontext.h>
#include <vector>

#include <sys/mman.h>

namespace {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr size_t GUARD_BYTES = 256;
constexpr unsigned char POISON = 0xff;  // NaN as a float, a half; far too large as an index
constexpr unsigned char CANARY = 0xa5;
constexpr unsigned WARP = 32;

const char* const NAMES[shim::COLLECTIVES] = {"nothing",  "__syncthreads", "__syncwarp", "a shuffle",
                                              "__ballot", "mma_f16",       "mma_s8u8",    "load_matrices"};

}  // namespace

extern "C" {

// Mirrored by src/launch.rs.
struct ShimRange {
    uintptr_t begin;
    uintptr_t end;
};
struct ShimLaunch {
    const char* kernel;
    uint32_t grid[3];
    uint32_t block[3];
    size_t shared_bytes;
    size_t static_shared_max;
    uint64_t seed;
    void* const* parameters;
    const size_t* parameter_sizes;
    size_t parameter_count;
    const ShimRange* ranges;  // ascending
    size_t range_count;
    char* message;
    size_t message_bytes;
};

extern const shim::Kernel* const shim_kernels[];
extern const size_t shim_kernel_count;
}

namespace shim {
void check_shared_access(const void* address);
}

namespace {

enum class State { READY, WAITS_FOR_WARP, WAITS_FOR_BLOCK, ENDED };

struct Copy {
    void* to;
    const void* from;  // null: zeros
};

struct Fiber {
    jmp_buf here;
    ucontext_t context;
    void* stack = MAP_FAILED;
    State state = State::ENDED;
    uint3 thread{};
    shim::Result result{};
    std::vector<std::vector<Copy>> copies;  // that are not done, by group; the last one is open

    ~Fiber() {
        if (stack != MAP_FAILED) munmap(stack, STACK_BYTES);
    }
};

// What a warp is meeting for, and who is there.
struct Warp {
    shim::Collective collective = shim::NONE;
    uint32_t arrived = 0;
    uint32_t present = 0;  // lanes that exist
    uint32_t ended = 0;
    shim::Operand operands[WARP];
};

struct Scheduler {
    jmp_buf here;
    std::vector<std::unique_ptr<Fiber>> fibers;  // grows to the largest block, and stays
    std::vector<unsigned> ready;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    std::vector<std::pair<const void*, size_t>> static_arrays;
    const ShimLaunch* launch = nullptr;
    const shim::Kernel* kernel = nullptr;
    shim::Place place{};
    Fiber* running = nullptr;
    unsigned running_index = 0;
    unsigned live = 0;
    unsigned at_barrier = 0;
    size_t dynamic_begin = 0;
    size_t static_used = 0;
    uint64_t random = 0;
    std::string error;

    // SplitMix64 (Steele, Lea, Flood 2014).
    uint64_t draw() {
        uint64_t z = (random += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
};

thread_local std::unique_ptr<Scheduler> scheduler_of_thread;

// Never inlined: a fiber must not keep the address of a thread's variable, though it stays on its thread.
__attribute__((noinline)) Scheduler& scheduler() { return *scheduler_of_thread; }

unsigned lane_of(unsigned index) { return index % WARP; }

[[noreturn]] void to_scheduler() { _longjmp(scheduler().here, 1); }

void wait_as(State state) {
    Fiber& fiber = *scheduler().running;
    fiber.state = state;
    if (_setjmp(fiber.here) == 0) to_scheduler();
}

void make_ready(unsigned index) {
    Scheduler& s = scheduler();
    s.fibers[index]->state = State::READY;
    s.ready.push_back(index);
}

void release_block() {
    Scheduler& s = scheduler();
    const unsigned threads = s.launch->block[0] * s.launch->block[1] * s.launch->block[2];
    for (unsigned i = 0; i < threads; i++)
        if (s.fibers[i]->state == State::WAITS_FOR_BLOCK) make_ready(i);
    s.at_barrier = 0;
}

std::string lanes_in(uint32_t mask) {
    std::string list;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) list += (list.empty() ? "" : ", ") + std::to_string(lane);
    return list;
}

// A fiber's whole life: one thread after another, a block each.
void fiber_main() {
    Fiber* const self = scheduler().running;
    if (_setjmp(self->here) == 0) to_scheduler();
    for (;;) {
        scheduler().kernel->call(scheduler().launch->parameters);
        Scheduler& s = scheduler();
        s.live--;
        Warp& warp = s.warps[s.running_index / WARP];
        warp.ended |= 1u << lane_of(s.running_index);
        if (warp.collective != shim::NONE)
            shim::fail("warp %u: lane %u has ended while lanes %s wait at %s", s.running_index / WARP,
                       lane_of(s.running_index), lanes_in(warp.arrived).c_str(), NAMES[warp.collective]);
        // Threads that have ended are not waited for.
        if (s.at_barrier > 0 && s.at_barrier == s.live) release_block();
        wait_as(State::ENDED);
    }
}

bool make_fiber(Scheduler& s) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fiber->stack == MAP_FAILED || getcontext(&fiber->context) != 0) return false;
    // The lowest page is never to be touched: an overflow ends the process there, not in a neighbour's stack.
    mprotect(fiber->stack, 4096, PROT_NONE);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, fiber_main, 0);
    s.fibers.push_back(std::move(fiber));
    s.running = s.fibers.back().get();
    if (_setjmp(s.here) == 0) setcontext(&s.running->context);
    return true;
}

float element_f16(uint32_t word, unsigned half) { return shim::half_to_float(uint16_t(word >> (16 * half))); }

// PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k32". Row r of A lies in lanes of group r % 8, column n of B in
// those of group n; a register holds `per_word` neighbours in k, four lanes hold 4 · per_word, and the upper half of k
// lies in the next registers.
void multiply(Warp& warp, bool integers, Fiber* const* fibers) {
    const unsigned per_word = integers ? 4 : 2, ks = 8 * per_word;
    float af[16][16], bf[16][8];
    int ai[16][32], bi[32][8];
    for (unsigned k = 0; k < ks; k++) {
        const unsigned lane = k % (4 * per_word) / per_word, upper = k / (4 * per_word), at = k % per_word;
        for (unsigned row = 0; row < 16; row++) {
            const uint32_t word = warp.operands[row % 8 * 4 + lane].words[row / 8 + 2 * upper];
            if (integers) ai[row][k] = int8_t(word >> (8 * at));
            else af[row][k] = element_f16(word, at);
        }
        for (unsigned column = 0; column < 8; column++) {
            const uint32_t word = warp.operands[column * 4 + lane].words[4 + upper];
            if (integers) bi[k][column] = uint8_t(word >> (8 * at));
            else bf[k][column] = element_f16(word, at);
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
            const uint32_t c = warp.operands[lane].words[6 + i];
            uint32_t& out = fibers[lane]->result.words[i];
            if (integers) {
                uint32_t sum = c;  // wraps, as the instruction does
                for (unsigned k = 0; k < ks; k++) sum += uint32_t(ai[row][k] * bi[k][column]);
                out = sum;
            } else {
                // Products of halves are exact; one rounding per instruction. A device rounds a little worse.
                double sum = shim::from_word<float>(c);
                for (unsigned k = 0; k < ks; k++) sum += double(af[row][k]) * bf[k][column];
                out = shim::to_word(float(sum));
            }
        }
    }
}

uint32_t shuffled(const Warp& warp, unsigned lane) {
    const uint32_t* const own = warp.operands[lane].words;
    const uint32_t argument = own[2], width = own[3], base = lane & ~(width - 1);
    unsigned source = lane;
    switch (own[1]) {
        case shim::FROM: source = base + argument % width; break;
        case shim::XOR: source = lane ^ argument; break;
        case shim::DOWN: source = lane + argument; break;
        default: source = lane - argument; break;
    }
    if (source - base >= width || !(warp.present >> source & 1)) source = lane;
    return warp.operands[source].words[0];
}

// PTX ISA, ldmatrix.x4: lane 8 i + r gives the address of row r of matrix i, 8 halves; lane l gets of each matrix elements
// 2 (l % 4) and the next of row l / 4, or of column l / 4 where it is transposed.
void load_matrices(const Warp& warp, Fiber* const* fibers) {
    const unsigned char* rows[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const uint32_t* const words = warp.operands[lane].words;
        rows[lane] = reinterpret_cast<const unsigned char*>(uintptr_t(uint64_t(words[1]) << 32 | words[0]));
        shim::check_shared_access(rows[lane]);
    }
    const auto element = [&](unsigned matrix, unsigned row, unsigned column) {
        uint16_t half;
        std::memcpy(&half, rows[matrix * 8 + row] + 2 * column, 2);
        return uint32_t(half);
    };
    const bool transposed = warp.operands[0].words[2];
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            const unsigned a = lane / 4, b = lane % 4 * 2;
            const uint32_t low = transposed ? element(matrix, b, a) : element(matrix, a, b);
            const uint32_t high = transposed ? element(matrix, b + 1, a) : element(matrix, a, b + 1);
            fibers[lane]->result.words[matrix] = low | high << 16;
        }
    }
}

void compute(Warp& warp, Fiber* const* fibers) {
    switch (warp.collective) {
        case shim::MMA_F16:
        case shim::MMA_S8U8:
            if (warp.present != 0xffffffffu) shim::fail("%s in a warp of less than 32 lanes", NAMES[warp.collective]);
            return multiply(warp, warp.collective == shim::MMA_S8U8, fibers);
        case shim::LDMATRIX:
            if (warp.present != 0xffffffffu) shim::fail("load_matrices in a warp of less than 32 lanes");
            return load_matrices(warp, fibers);
        case shim::SHUFFLE:
            for (unsigned lane = 0; lane < WARP; lane++)
                if (warp.present >> lane & 1) fibers[lane]->result.words[0] = shuffled(warp, lane);
            return;
        case shim::BALLOT: {
            uint32_t votes = 0;
            for (unsigned lane = 0; lane < WARP; lane++)
                if ((warp.present >> lane & 1) && warp.operands[lane].words[0]) votes |= 1u << lane;
            for (unsigned lane = 0; lane < WARP; lane++)
                if (warp.present >> lane & 1) fibers[lane]->result.words[0] = votes;
            return;
        }
        default: return;
    }
}

// "3 of 64 threads wait at __syncthreads; warp 0: lanes 1, 2 wait at a shuffle".
std::string who_waits(const Scheduler& s, unsigned threads) {
    std::string text;
    if (s.at_barrier > 0)
        text = std::to_string(s.at_barrier) + " of " + std::to_string(threads) + " threads wait at __syncthreads";
    for (size_t w = 0; w < s.warps.size(); w++) {
        if (s.warps[w].collective == shim::NONE) continue;
        text += (text.empty() ? "" : "; ") + ("warp " + std::to_string(w)) + ": lanes " + lanes_in(s.warps[w].arrived) +
                " wait at " + NAMES[s.warps[w].collective];
    }
    return text;
}

// Every block begins with shared memory that nobody wrote, and ends with guards that nobody wrote.
void lay_out_shared(Scheduler& s) {
    s.static_arrays.clear();
    s.static_used = 0;
    const size_t whole = s.launch->static_shared_max + s.launch->shared_bytes + 2 * GUARD_BYTES + 32;
    s.shared.assign(whole, POISON);
    const uintptr_t base = reinterpret_cast<uintptr_t>(s.shared.data());
    s.dynamic_begin = (base + s.launch->static_shared_max + GUARD_BYTES + 15) / 16 * 16 - base;
    std::memset(s.shared.data() + s.dynamic_begin - GUARD_BYTES, CANARY, GUARD_BYTES);
    std::memset(s.shared.data() + s.dynamic_begin + s.launch->shared_bytes, CANARY,
                whole - s.dynamic_begin - s.launch->shared_bytes);
}

void check_shared(const Scheduler& s) {
    const unsigned char* const dynamic = s.shared.data() + s.dynamic_begin;
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (dynamic[-1 - ptrdiff_t(i)] != CANARY || dynamic[s.launch->shared_bytes + i] != CANARY)
            shim::fail("block %u, %u, %u wrote outside its %zu bytes of shared memory", s.place.block.x,
                       s.place.block.y, s.place.block.z, s.launch->shared_bytes);
}

void run_block(Scheduler& s) {
    const uint32_t* const size = s.launch->block;
    const unsigned threads = size[0] * size[1] * size[2];
    s.warps.assign((threads + WARP - 1) / WARP, Warp());
    s.ready.clear();
    s.at_barrier = 0;
    s.live = threads;
    lay_out_shared(s);
    for (unsigned i = 0; i < threads; i++) {
        s.fibers[i]->copies.assign(1, {});
        s.fibers[i]->thread = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
        s.warps[i / WARP].present |= 1u << lane_of(i);
        make_ready(i);
    }
    while (!s.ready.empty()) {
        const size_t next = s.draw() % s.ready.size();
        s.running_index = s.ready[next];
        s.ready[next] = s.ready.back();
        s.ready.pop_back();
        s.running = s.fibers[s.running_index].get();
        s.place.thread = s.running->thread;
        if (_setjmp(s.here) == 0) _longjmp(s.running->here, 1);
        if (!s.error.empty()) return;
    }
    if (s.live > 0) {
        s.error = "deadlock: " + who_waits(s, threads);
        return;
    }
    if (_setjmp(s.here) == 0) check_shared(s);
}

const shim::Kernel* find_kernel(const char* name) {
    for (size_t i = 0; i < shim_kernel_count; i++)
        if (std::strcmp(shim_kernels[i]->name, name) == 0) return shim_kernels[i];
    return nullptr;
}

std::string misfit(const ShimLaunch& launch, const shim::Kernel& kernel) {
    if (kernel.parameter_count != launch.parameter_count)
        return "takes " + std::to_string(kernel.parameter_count) + " parameters";
    for (size_t i = 0; i < launch.parameter_count; i++)
        if (kernel.parameter_sizes[i] != launch.parameter_sizes[i])
            return "parameter " + std::to_string(i) + " has " + std::to_string(kernel.parameter_sizes[i]) + " bytes";
    return "";
}

}  // namespace

namespace shim {

const Place& place() { return scheduler().place; }

void fail(const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    scheduler().error = text;
    to_scheduler();
}

void block_barrier() {
    Scheduler& s = scheduler();
    s.at_barrier++;
    if (s.at_barrier == s.live) {
        release_block();
        s.ready.push_back(s.running_index);
        return wait_as(State::READY);
    }
    wait_as(State::WAITS_FOR_BLOCK);
}

Result meet(Collective collective, const Operand& operand) {
    Scheduler& s = scheduler();
    const unsigned index = s.running_index, first = index / WARP * WARP, lane = lane_of(index);
    Warp& warp = s.warps[index / WARP];
    Fiber& fiber = *s.running;
    if (collective <= BALLOT && operand.words[4] != 0xffffffffu)
        fail("%s with mask %08x: only whole warps meet here", NAMES[collective], operand.words[4]);
    if (warp.ended) fail("warp %u: lane %u comes to %s, where lanes %s never will: they have ended", index / WARP, lane,
                         NAMES[collective], lanes_in(warp.ended).c_str());
    if (warp.collective != NONE && warp.collective != collective)
        fail("warp %u: lane %u is at %s while lanes %s are at %s", index / WARP, lane, NAMES[collective],
             lanes_in(warp.arrived).c_str(), NAMES[warp.collective]);
    warp.collective = collective;
    warp.operands[lane] = operand;
    warp.arrived |= 1u << lane;
    if (warp.arrived != warp.present) {
        wait_as(State::WAITS_FOR_WARP);
        return fiber.result;
    }
    Fiber* fibers[WARP] = {};
    for (unsigned l = 0; l < WARP; l++)
        if (warp.present >> l & 1) fibers[l] = s.fibers[first + l].get();
    compute(warp, fibers);
    warp.collective = NONE;
    warp.arrived = 0;
    for (unsigned l = 0; l < WARP; l++)
        if (warp.present >> l & 1) make_ready(first + l);
    wait_as(State::READY);
    return fiber.result;
}

void* dynamic_shared() { return scheduler().shared.data() + scheduler().dynamic_begin; }

// 16 bytes of the block's dynamic shared memory.
void check_shared_access(const void* address) {
    const Scheduler& s = scheduler();
    const uintptr_t begin = reinterpret_cast<uintptr_t>(s.shared.data()) + s.dynamic_begin;
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (at % 16 != 0) fail("16 bytes of shared memory at %td, which is not aligned to 16", ptrdiff_t(at - begin));
    if (at < begin || at + 16 > begin + s.launch->shared_bytes)
        fail("16 bytes at %td of %zu bytes of shared memory", ptrdiff_t(at - begin), s.launch->shared_bytes);
}

static void copy(void* to, const void* from) {
    if (from) std::memcpy(to, from, 16);
    else std::memset(to, 0, 16);
}

void copy_some_time(void* to, const void* from) {
    check_shared_access(to);
    Scheduler& s = scheduler();
    if (s.draw() & 1) copy(to, from);
    else s.running->copies.back().push_back({to, from});
}

void commit_copies() { scheduler().running->copies.emplace_back(); }

void wait_for_copies(unsigned groups) {
    std::vector<std::vector<Copy>>& copies = scheduler().running->copies;
    // The open group is not waited for, nor are `groups` before it.
    while (copies.size() > groups + 1) {
        for (const Copy& later : copies.front()) copy(later.to, later.from);
        copies.erase(copies.begin());
    }
}

void* static_shared(const void* declaration, size_t bytes, size_t alignment) {
    Scheduler& s = scheduler();
    for (const auto& [known, at] : s.static_arrays)
        if (known == declaration) return s.shared.data() + at;
    const uintptr_t base = reinterpret_cast<uintptr_t>(s.shared.data());
    const size_t at = (base + s.static_used + alignment - 1) / alignment * alignment - base;
    s.static_used = at + bytes;
    if (s.static_used > s.launch->static_shared_max)
        fail("%zu bytes of static shared memory, at most %zu", s.static_used, s.launch->static_shared_max);
    s.static_arrays.emplace_back(declaration, at);
    return s.shared.data() + at;
}

void check_access(const void* address, size_t bytes, size_t alignment, bool write) {
    const Scheduler& s = scheduler();
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const char* const what = write ? "write" : "read";
    if (at % alignment != 0) fail("%s of %zu bytes at %p, which is not aligned to %zu", what, bytes, address, alignment);
    size_t low = 0, high = s.launch->range_count;
    while (low < high) {  // the last range that begins at or before `at`
        const size_t middle = (low + high) / 2;
        if (s.launch->ranges[middle].begin <= at) low = middle + 1;
        else high = middle;
    }
    if (low == 0 || at + bytes > s.launch->ranges[low - 1].end) {
        const ptrdiff_t beyond = low == 0 ? 0 : ptrdiff_t(at + bytes - s.launch->ranges[low - 1].end);
        const Place& p = s.place;
        fail("out of bounds: %s of %zu bytes ends %td bytes beyond the buffer before it; block %u, thread %u", what,
             bytes, beyond, p.block.x, p.thread.x);
    }
}

float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return from_word<float>(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0) return from_word<float>(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = float(fraction) * (1.0f / 16777216.0f);  // subnormal: fraction · 2⁻²⁴
    return sign ? -small : small;
}

// Rounds to nearest even, as cvt.rn.f16.f32 does.
uint16_t float_to_half(float x) {
    const uint32_t bits = to_word(x), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from 65,520 on: infinite
    if (magnitude < 0x38800000) {                       // subnormal: a multiple of 2⁻²⁴, which f32 arithmetic rounds to
        const float shifted = from_word<float>(magnitude) + 0.5f;
        return sign | uint16_t(to_word(shifted) - 0x3f000000);
    }
    return sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace shim

// 0: done; 1: no such kernel; 2: parameters that do not fit it; 3: the launch failed. `message` says what happened.
extern "C" int shim_launch(const ShimLaunch* launch) {
    if (!scheduler_of_thread) scheduler_of_thread = std::make_unique<Scheduler>();
    Scheduler& s = *scheduler_of_thread;
    s.launch = launch;
    s.error.clear();
    s.random = launch->seed;
    s.kernel = find_kernel(launch->kernel);
    if (s.kernel == nullptr) return 1;
    s.error = misfit(*launch, *s.kernel);
    int status = s.error.empty() ? 0 : 2;
    const unsigned threads = launch->block[0] * launch->block[1] * launch->block[2];
    while (status == 0 && s.fibers.size() < threads)
        if (!make_fiber(s)) {
            s.error = "no memory for another fiber";
            status = 3;
        }
    s.place.block_size = {launch->block[0], launch->block[1], launch->block[2]};
    s.place.grid = {launch->grid[0], launch->grid[1], launch->grid[2]};
    const uint64_t blocks = uint64_t(launch->grid[0]) * launch->grid[1] * launch->grid[2];
    for (uint64_t i = 0; i < blocks && status == 0; i++) {
        s.place.block = {unsigned(i % launch->grid[0]), unsigned(i / launch->grid[0] % launch->grid[1]),
                         unsigned(i / launch->grid[0] / launch->grid[1])};
        run_block(s);
        if (!s.error.empty()) status = 3;
    }
    if (status != 0) {
        snprintf(launch->message, launch->message_bytes, "%s", s.error.c_str());
        scheduler_of_thread.reset();  // with fibers that stand in the middle of a kernel
    }
    return status;
}
