// What the matrix-instruction kernels of MaxSim share: their arguments, how a query lies in shared memory, and how
// maxima become scores. Put between the prelude and each source of this folder.
//
//   score(q, d) = sum over query rows i of max over document rows j of <q_i, d_j>
//
// Work is cut by kernels/src/cuda/maxsim/plan.rs. A thread block has one chunk of one query (16 · M rows) and a list of
// pieces of documents for each of its WARPS warps; a piece is a run of a document's rows. A document that lies in one
// piece is scored by its warp. The maxima of one that was cut go to `partials`, a row of `stride` floats for each
// piece, and are joined by the same block after a barrier, if all pieces were its own, or else by a second launch.
// A maximum does not depend on the order of its operands, and every sum over query rows is taken in one order (each
// residue of the row's number modulo 8 ascending, then a tree over residues): however the work was cut, the bits of a
// score are the same.
//
// Rows of documents and queries begin at multiples of 16 bytes and are `cells` units of 16 bytes apart. What follows a
// row's own components up to the next cell must be zero in the query and finite in the document.
// NaN: max_nan keeps it, so that NaN in what is compared makes the score NaN. Document without rows: -infinity. Query
// without rows: 0. Rows of the chunk beyond the query's own are zero and left out of the sum.

#define WARPS 8u
#define THREADS 256u
// No token: the alignment of a document without rows.
#define NO_TOKEN 0xffffffffu

// Mirrored by kernels/src/cuda/maxsim/arguments.rs.
struct Block {
    unsigned long long query;      // address of the chunk's first row
    unsigned long long row_scales; // int8: address of its RowScale
    unsigned rows;                 // rows of the chunk that the query has
    unsigned first_row;            // number of the chunk's first row in the query
    unsigned join_begin;           // what the block joins at its end: joins[join_begin..join_end]
    unsigned join_end;
};
struct Piece {
    unsigned long long rows;       // address of its first row
    unsigned long long scales;     // int8: address of that row's scale
    unsigned length;               // rows
    unsigned first_token;          // number of its first row in the document
    unsigned output;               // whole documents: index into scores; else into partials, of the query's row 0
    unsigned cut;                  // 0: the piece is a whole document
};
struct Join {
    unsigned partial;              // index into partials of the first piece's maxima
    unsigned pieces;
    unsigned stride;               // from one piece's maxima to the next
    unsigned rows;                 // of the query
    unsigned score;                // index into scores
    unsigned alignment;            // index into alignment_values and alignment_tokens, of row 0
    unsigned reserved[2];
};
struct RowScale {
    float scale;
    int correction;                // -128 · sum of the row's codes: document codes are offset by 128
};
struct Arguments {
    const Block* blocks;
    const unsigned* warps;         // pieces of warp w of block b: warps[b · WARPS + w] .. the next
    const Piece* pieces;
    const Join* joins;
    float* scores;
    float* partials;
    unsigned* partial_tokens;      // alignment only
    float* alignment_values;       // alignment only
    unsigned* alignment_tokens;    // alignment only
    unsigned cells;                // of a row
    unsigned k_blocks;             // of a row in shared memory: 4 cells each, zero beyond the row's own
    unsigned join_begin;           // of the second launch
    unsigned join_end;
};

// Matrix fragments (PTX ISA, mma.m16n8k16 and .m16n8k32): lane l is number t = l % 4 of group g = l / 4.
//   A 16 × k, the query: registers 0, 2 hold row g, registers 1, 3 row g + 8; 0 and 1 the first half of k, 2 and 3 the second
//   B k × 8, the document: both registers hold column (token) g
//   C 16 × 8: c0, c1 are row g, columns 2t and 2t + 1; c2, c3 the same of row g + 8
// A dot product does not depend on the order of k, as long as A and B agree. So lane t takes cell 4b + t of its row in
// one 16-byte load, whatever its 4 words are in the matrix' own order, and feeds words x, y to one instruction and z, w
// to the next. Four lanes read 64 bytes of a row, whole sectors; nothing is shuffled or transposed.
struct F16 {
    typedef float Sum;
    enum { scaled = 0 };
    DEVICE void multiply(float (&c)[4], uint4 low, uint4 high, uint4 v) {
        mma_f16(c, low.x, high.x, low.y, high.y, v.x, v.y);
        mma_f16(c, low.z, high.z, low.w, high.w, v.z, v.w);
    }
};
struct Int8 {
    typedef int Sum;
    enum { scaled = 1 };
    DEVICE void multiply(int (&c)[4], uint4 low, uint4 high, uint4 v) {
        mma_s8u8(c, low.x, high.x, low.y, high.y, v.x, v.y);
        mma_s8u8(c, low.z, high.z, low.w, high.w, v.z, v.w);
    }
};

DEVICE const RowScale* row_scales(const Block& block) { return reinterpret_cast<const RowScale*>(block.row_scales); }
DEVICE unsigned lane_index() { return threadIdx.x % 32; }
DEVICE unsigned warp_index() { return threadIdx.x / 32; }

// Copies the chunk into shared memory in the order in which fragments are read: 32 lanes' cells of (tile, k-block,
// half of the tile's rows) lie together, so every 16-byte read of a warp is free of bank conflicts.
template <int M>
DEVICE void stage_query(const Arguments& a, const Block& block, uint4* query) {
    const unsigned total = M * a.k_blocks * 64;
    for (unsigned i = threadIdx.x; i < total; i += THREADS) {
        const unsigned lane = i % 32, high = i / 32 % 2, k_block = i / 64 % a.k_blocks, tile = i / 64 / a.k_blocks;
        const unsigned row = tile * 16 + high * 8 + lane / 4, cell = k_block * 4 + lane % 4;
        uint4 v = {0, 0, 0, 0};
        if (row < block.rows && cell < a.cells)
            v = load16(reinterpret_cast<const char*>(block.query) + (row * a.cells + cell) * 16ull);
        query[i] = v;
    }
}

// Where the sums of a lane's rows begin: number 2 m + high is row 16 m + 8 high + g.
template <class S, int M>
struct QueryRows {
    int correction[2 * M];

    DEVICE void read(QueryRows& rows, const Block& block) {
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            const unsigned row = r * 8 + lane_index() / 4;
            rows.correction[r] = S::scaled && row < block.rows ? load(&row_scales(block)[row].correction) : 0;
        }
    }
};

template <class S, int M>
DEVICE void begin_sums(typename S::Sum (&c)[4], const QueryRows<S, M>& rows, int m) {
#pragma unroll
    for (int e = 0; e < 4; e++) c[e] = S::scaled ? rows.correction[2 * m + e / 2] : 0;
}

// Whether `value` goes before what was found so far: NaN before numbers, then the larger, then the earlier token.
DEVICE bool is_better(float value, unsigned token, float best, unsigned best_token) {
    if (best != best) return value != value && token < best_token;
    return value != value || value > best || (value == best && token < best_token);
}

// The largest similarity of each of a lane's query rows, and its token where ALIGN.
template <int M, bool ALIGN>
struct Maxima {
    float value[2 * M];
    unsigned token[ALIGN ? 2 * M : 1];

    DEVICE void begin(Maxima& maxima) {
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            maxima.value[r] = -INFINITY_F32;
            if (ALIGN) maxima.token[r] = NO_TOKEN;
        }
    }

    DEVICE void take(Maxima& maxima, int r, float value, unsigned token) {
        if (!ALIGN) {
            maxima.value[r] = max_nan(maxima.value[r], value);
        } else if (is_better(value, token, maxima.value[r], maxima.token[r])) {
            maxima.value[r] = value;
            maxima.token[r] = token;
        }
    }
};

// The warp's maxima of a piece become a score, or partials. The warp is together again afterwards, as the matrix
// instructions of the next piece want it.
template <class S, int M, bool ALIGN>
DEVICE void end_piece(const Arguments& a, const Block& block, const Piece& piece, Maxima<M, ALIGN>& maxima) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < 2 * M; r++) {
        // A lane has seen two columns of eight; its group has seen all.
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) {
            const unsigned token = ALIGN ? __shfl_xor_sync(ALL_LANES, maxima.token[ALIGN ? r : 0], lanes) : 0;
            Maxima<M, ALIGN>::take(maxima, r, __shfl_xor_sync(ALL_LANES, maxima.value[r], lanes), token);
        }
        const unsigned row = r * 8 + g;
        if (row >= block.rows) continue;
        float value = maxima.value[r];
        if (S::scaled && piece.length > 0) value *= load(&row_scales(block)[row].scale);
        sum += value;
        if (piece.cut && t == 0) {
            const unsigned at = piece.output + block.first_row + row;
            store(a.partials + at, value);
            if (ALIGN) store(a.partial_tokens + at, maxima.token[ALIGN ? r : 0]);
        }
    }
    if (!piece.cut) {
#pragma unroll
        for (int lanes = 4; lanes <= 16; lanes *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        if (lane_index() == 0) store(a.scores + piece.output, sum);
    }
    __syncwarp();
}

// One warp: the score of a document that was cut, from its pieces' maxima.
template <bool ALIGN>
DEVICE void join_pieces(const Arguments& a, const Join& join) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
    float sum = 0.0f;
    for (unsigned row = g; row < join.rows; row += 8) {
        float best = -INFINITY_F32;
        unsigned best_token = NO_TOKEN;
        for (unsigned piece = 0; piece < join.pieces; piece++) {
            const unsigned at = join.partial + piece * join.stride + row;
            const float value = load(a.partials + at);
            if (!ALIGN) {
                best = max_nan(best, value);
                continue;
            }
            const unsigned token = load(a.partial_tokens + at);
            if (is_better(value, token, best, best_token)) {
                best = value;
                best_token = token;
            }
        }
        sum += best;
        if (ALIGN && t == 0) {
            store(a.alignment_values + join.alignment + row, best);
            store(a.alignment_tokens + join.alignment + row, best_token);
        }
    }
#pragma unroll
    for (int lanes = 4; lanes <= 16; lanes *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (lane_index() == 0) store(a.scores + join.score, sum);
}

// The block's own joins, after all of its warps have written their partials.
template <bool ALIGN>
DEVICE void join_own(const Arguments& a, const Block& block) {
    __syncthreads();
    for (unsigned i = block.join_begin + warp_index(); i < block.join_end; i += WARPS)
        join_pieces<ALIGN>(a, load(a.joins + i));
}

// The second launch: a warp for each document that was cut over blocks.
template <bool ALIGN>
DEVICE void join_rest(const Arguments& a) {
    const unsigned i = a.join_begin + blockIdx.x * WARPS + warp_index();
    if (i < a.join_end) join_pieces<ALIGN>(a, load(a.joins + i));
}
