// MaxSim, ladder step 1: the formula, one thread for each query row. What the next steps are compared with, and what
// runs where they do not: f32 documents, and rows too long for a query chunk in shared memory.
//
// Mapping: one block per document, 128 threads. Thread i takes query rows i, i + 128, ...; for each it walks the
//   document's rows and adds products in order of k. Thread 0 adds the threads' sums in their order.
// Shared memory: 512 bytes, a sum for each thread.
// Limits: any dim, any number of query rows; int8: dim up to 66,000 (the sum of products is 32 bits wide).
// Sketch: 2 · q_len · rows · dim FLOPs without matrix instructions, each thread of a warp reading the same document
//   element (one broadcast) and its own query row (32 lines of L1 for each load): hundreds of times from the floor of
//   one read of the document. No step 1 figure is a promise of speed. Not yet run on a GPU.
//
// Bits do not depend on what else is in the launch: a document is one block's own.

#define NAIVE_THREADS 128u

// Mirrored by kernels/src/cuda/maxsim/arguments.rs.
struct Pair {
    unsigned long long rows;       // address of the document's first row
    unsigned long long scales;     // int8: address of its first row's scale
    unsigned long long query;      // address of the query's first row
    unsigned long long row_scales; // int8: address of its scales, 8 bytes each, the scale first
    unsigned length;               // rows of the document
    unsigned query_rows;
    unsigned score;                // index into scores
    unsigned alignment;            // index into alignment_values and alignment_tokens, of query row 0
};
struct NaiveArguments {
    const Pair* pairs;
    float* scores;
    float* alignment_values;       // null: no alignment
    unsigned* alignment_tokens;
    unsigned dim;
    unsigned pitch;                // bytes from one row to the next, of documents and queries
};

// <q, d> of one query row and one document row; int8 leaves the query's scale to the end, as the other steps do.
struct NaiveF32 {
    enum { scaled = 0 };
    DEVICE float dot(const void* q, const void* d, unsigned dim) {
        float sum = 0.0f;
        for (unsigned k = 0; k < dim; k++)
            sum = fmaf(load(static_cast<const float*>(q) + k), load(static_cast<const float*>(d) + k), sum);
        return sum;
    }
};
struct NaiveF16 {
    enum { scaled = 0 };
    DEVICE float dot(const void* q, const void* d, unsigned dim) {
        float sum = 0.0f;
        for (unsigned k = 0; k < dim; k++)
            sum = fmaf(half_to_float(load(static_cast<const unsigned short*>(q) + k)),
                       half_to_float(load(static_cast<const unsigned short*>(d) + k)), sum);
        return sum;
    }
};
struct NaiveInt8 {
    enum { scaled = 1 };
    DEVICE float dot(const void* q, const void* d, unsigned dim) {
        int sum = 0;
        for (unsigned k = 0; k < dim; k++)
            sum += load(static_cast<const signed char*>(q) + k) *
                   (static_cast<int>(load(static_cast<const unsigned char*>(d) + k)) - 128);
        return static_cast<float>(sum);
    }
};

template <class S>
DEVICE void naive(const NaiveArguments& a) {
    SHARED_ARRAY(float, sums, NAIVE_THREADS);
    const Pair pair = load(a.pairs + blockIdx.x);
    float sum = 0.0f;
    for (unsigned row = threadIdx.x; row < pair.query_rows; row += NAIVE_THREADS) {
        const char* const q = reinterpret_cast<const char*>(pair.query) + static_cast<unsigned long long>(row) * a.pitch;
        float best = -INFINITY_F32;
        unsigned best_token = NO_TOKEN;
        for (unsigned token = 0; token < pair.length; token++) {
            const char* const d =
                reinterpret_cast<const char*>(pair.rows) + static_cast<unsigned long long>(token) * a.pitch;
            float value = S::dot(q, d, a.dim);
            if (S::scaled) value *= load(reinterpret_cast<const float*>(pair.scales) + token);
            // NaN is taken, and then kept; of equal ones the first stays.
            if (value > best || best_token == NO_TOKEN || (value != value && best == best)) {
                best = value;
                best_token = token;
            }
        }
        if (S::scaled && pair.length > 0) best *= load(reinterpret_cast<const float*>(pair.row_scales) + 2 * row);
        sum += best;
        if (a.alignment_values) {
            store(a.alignment_values + pair.alignment + row, best);
            store(a.alignment_tokens + pair.alignment + row, best_token);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (unsigned i = 1; i < NAIVE_THREADS; i++) sum += sums[i];
    store(a.scores + pair.score, sum);
}

extern "C" __global__ void __launch_bounds__(128) maxsim_naive_f32(NaiveArguments a) { naive<NaiveF32>(a); }
extern "C" __global__ void __launch_bounds__(128) maxsim_naive_f16(NaiveArguments a) { naive<NaiveF16>(a); }
extern "C" __global__ void __launch_bounds__(128) maxsim_naive_int8(NaiveArguments a) { naive<NaiveInt8>(a); }
