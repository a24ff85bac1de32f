// Products of 4-bit weights with the few tokens of replies being written: each weight is read once, and the
// card does little else than read. Compiled by few_rows.py, which defines:
//   TOKENS      rows of x, 1 to 4
//   WARPS       of a block of threads; they share out the columns
//   BLOCKS      of threads that a processor holds at once
//   WEIGHTS     that x is multiplied with in one launch
//   ADAPTERS    of a weight: 1 for all rows of x, or TOKENS, one for each row
//   BLOCK_BITS  a scale serves 2 to the power of it weights, at least 64
//   COLUMNS     k, of x and the weights
//   WHOLE       1: no weight has a tile with fewer rows than others
//   NESTED      1: the scales are quantized again
//   TABLE_AT    where `table` lies in shared memory, see `table_place`: as a number it costs no instructions
//   HALF        x is float16, else bfloat16
//   EARLY       the kernel may start while the one before it still runs (Hopper and later)

typedef unsigned char byte;
typedef unsigned short half;  // a float16 or bfloat16 as it lies in memory
typedef unsigned int word;    // two of them, the first in the low bits

constexpr int LANES = 32;
constexpr int THREADS = WARPS * LANES;
constexpr int TILE = 16;      // rows of a weight that a block of threads works on
constexpr int PIECE = 128;    // columns that a warp works on: two of the smallest blocks
constexpr int A_LANE = 32;    // of these a lane's: 16 bytes
constexpr int A_ROW = 16;     // threads that sum up a row of a tile
constexpr int k = COLUMNS;
constexpr int PASSED = WARPS * PIECE;  // columns that a block of threads passes over in a turn
constexpr int PIECES = k / PIECE, TURNS = (PIECES + WARPS - 1) / WARPS;  // of a warp, a piece each
constexpr int SCALES = k >> BLOCK_BITS;  // of a row

constexpr int SERVED = TOKENS / ADAPTERS;  // rows of x, by one adapter

struct Adapter {
    const float* lora_a;  // [rank, k]; null: low_rank is there already
    const float* lora_b;  // [n, rank]
    half* low_rank;       // [SERVED, rank]: scaling * x A^T
    int rank;             // 0: none
    float scaling;
};

struct Weight {
    const byte* packed;         // [n, k / 2]
    const void* absmax;         // float [n * k / block], or bytes where NESTED
    const float* absmax_scale;  // [blocks / 256]
    const float* absmax_offset;
    const half* bias;           // [n], or null
    half* y;                    // [TOKENS, n]
    Adapter adapters[ADAPTERS];
    int n, unused;
};

struct Weights {
    Weight each[WEIGHTS];
};

// What blocks of threads tell each other; both are 0 between kernels.
struct Progress {
    unsigned low_ranks;  // columns of low_rank that are made
    unsigned blocks;     // that are through
};

__device__ float low_of(word two) {
#ifdef HALF
    float value;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(value) : "r"(two));
    return value;
#else
    return __uint_as_float(two << 16);
#endif
}

__device__ float high_of(word two) { return low_of(two >> 16); }

__device__ word both_of(float first, float second) {
    word both;
#ifdef HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
#endif
    return both;
}

__device__ half rounded(float value) { return both_of(value, 0) & 0xffff; }

// sums [16, 8] += a [16, 16] b [16, 8]
__device__ void multiply(float* sums, const word* a, const word* b) {
#ifdef HALF
#define KIND "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#else
#define KIND "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#endif
    asm(KIND "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Until all that the kernels before this one wrote can be read.
__device__ void wait_for_kernels_before() {
#ifdef EARLY
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ void let_next_kernel_start() {
#ifdef EARLY
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// To where all processors find it soon.
__device__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

// Where `wanted`; else `to` stays as it is.
__device__ void read_if(bool wanted, word* to, const half* from) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %5, 0; @p ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];}"
        : "+r"(to[0]), "+r"(to[1]), "+r"(to[2]), "+r"(to[3])
        : "l"(from), "r"(int(wanted))
    );
}

// Now, not where the compiler thinks that there is time.
__device__ int read_byte(const void* from) {
    int value;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(value) : "l"(from));
    return value;
}

__device__ float read_float(const void* from) {
    float value;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(from));
    return value;
}

// Of a block of threads: a byte's two weights are looked up at once; each lane has a table of its own, so that
// none waits. Entry `code` of lane `lane` lies at byte 256 * code + 4 * lane: one instruction makes that from a
// word of codes. Behind these 128 bytes lie 8 copies of what the byte stands for as the scale of a block.
extern __shared__ __align__(256) byte table[];

__device__ word from_table(unsigned at) {
    word value;
    asm("ld.shared.b32 %0, [%1 + %2];" : "=r"(value) : "r"(at), "n"(TABLE_AT));
    return value;
}

extern "C" __global__ void table_place(int* place) { *place = __cvta_generic_to_shared(table); }

__device__ float sum_of_lanes(float value, int lanes) {
    for (int other = lanes / 2; other; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    return value;
}

// sums[t] = sum over k of x[t, k] row[k], by all threads of the block, of SERVED rows of x; only thread t then has
// sums[t], as its return.
__device__ float dot(const float* row, const half* x, float (*parts)[TOKENS]) {
    float sums[SERVED] = {};
    for (int four = threadIdx.x; four < k / 4; four += THREADS) {
        const float4 a = __ldg(reinterpret_cast<const float4*>(row) + four);
#pragma unroll
        for (int t = 0; t < SERVED; ++t) {
            const uint2 xs = __ldg(reinterpret_cast<const uint2*>(x + (long long)t * k) + four);
            sums[t] += a.x * low_of(xs.x) + a.y * high_of(xs.x) + a.z * low_of(xs.y) + a.w * high_of(xs.y);
        }
    }
#pragma unroll
    for (int t = 0; t < SERVED; ++t) {
        const float sum = sum_of_lanes(sums[t], LANES);
        if (threadIdx.x % LANES == 0) parts[threadIdx.x / LANES][t] = sum;
    }
    __syncthreads();
    float sum = 0;
    if (threadIdx.x < SERVED)
        for (int warp = 0; warp < WARPS; ++warp) sum += parts[warp][threadIdx.x];
    __syncthreads();
    return sum;
}

// The count-th of all columns of low_rank that are to be made.
__device__ bool make_low_rank(const Weights& weights, const half* x, int count, float (*parts)[TOKENS]) {
#pragma unroll
    for (int number = 0; number < WEIGHTS; ++number) {
#pragma unroll
        for (int of = 0; of < ADAPTERS; ++of) {
            const Adapter& adapter = weights.each[number].adapters[of];
            const int made = adapter.lora_a ? adapter.rank : 0;
            if (count >= 0 && count < made) {
                const half* from = x + (long long)of * SERVED * k;
                const float sum = dot(adapter.lora_a + (long long)count * k, from, parts);
                if (threadIdx.x < SERVED)
                    adapter.low_rank[threadIdx.x * adapter.rank + count] = rounded(adapter.scaling * sum);
                return true;
            }
            count -= made;
        }
    }
    return false;
}

// y[t, n] = sum over k of W[n, k] x[t, k], + bias[n] + sum over j of lora_b[n, j] low_rank[t, j], with the adapter of t
//
// A piece is two blocks of 64 columns, each with a scale of its own, but one product sums over both. So x
// stands twice in it: for columns 0 to 3 of the result where the first block is, for 4 to 7 where the second.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) few_rows(
    const __grid_constant__ Weights weights,
    const float* __restrict__ values,       // [16]
    const float* __restrict__ absmax_code,  // [256], read where NESTED
    const half* __restrict__ x,             // [TOKENS, k]
    Progress* progress
) {
    const auto parts = reinterpret_cast<float (*)[WARPS][TILE][TOKENS]>(table + 256 * 256);

    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int group = lane / 4, quarter = lane % 4;  // a row of the tile, a quarter of the piece
    int tiles = 0, low_ranks = 0;
#pragma unroll
    for (int number = 0; number < WEIGHTS; ++number) {
        tiles += (weights.each[number].n + TILE - 1) / TILE;
#pragma unroll
        for (int of = 0; of < ADAPTERS; ++of) {
            const Adapter& adapter = weights.each[number].adapters[of];
            low_ranks += adapter.lora_a ? adapter.rank : 0;
        }
    }

    // Which weight a tile belongs to; `tile` becomes the weight's own count.
    const auto weight_of = [&](int& tile) {
        int number = 0;
#pragma unroll
        for (int next = 0; next + 1 < WEIGHTS; ++next) {
            const int own = (weights.each[next].n + TILE - 1) / TILE;
            if (number == next && tile >= own) tile -= own, ++number;
        }
        return number;
    };

    // Rows `group` and `group` + 8 of a tile, the latter as rows behind it: fewer where the weight ends before.
    const auto row_of = [&](const Weight& weight, int own) {
        return WHOLE ? own * TILE + group : min(own * TILE + group, weight.n - 1);
    };
    const auto to_upper = [&](const Weight& weight, int row) { return WHOLE ? 8 : min(row + 8, weight.n - 1) - row; };

    // A lane's first 16 bytes of a tile. Its scales lie together: asked for here they are near when they are needed.
    // Its codes would come no sooner if they were asked for: measured.
    struct Source {
        const byte* codes;
        int upper;
    };
    const auto source_of = [&](int tile) {
        const Weight& weight = weights.each[weight_of(tile)];
        constexpr int A_ROW_OF_SCALES = SCALES * (NESTED ? 1 : 4);
        const byte* scales = static_cast<const byte*>(weight.absmax) + (long long)tile * TILE * A_ROW_OF_SCALES;
        const int size = (WHOLE ? TILE : min(TILE, weight.n - tile * TILE)) * A_ROW_OF_SCALES;
#pragma unroll 1
        for (int at = threadIdx.x * 32; at < size; at += THREADS * 32) prefetch(scales + at);
        const int row = row_of(weight, tile);
        return Source{
            weight.packed + (long long)row * (k / 2) + (warp * PIECE + quarter * A_LANE) / 2,
            to_upper(weight, row) * (k / 2)
        };
    };
    // While a piece is multiplied, the next is on its way.
    uint4 ahead[2] = {};
    const auto read_ahead = [&](const Source& from, int turn) {
        if (warp + turn * WARPS < PIECES) {
            const byte* codes = from.codes + turn * (PASSED / 2);
            ahead[0] = __ldcs(reinterpret_cast<const uint4*>(codes));
            ahead[1] = __ldcs(reinterpret_cast<const uint4*>(codes + (WHOLE ? 8 * (k / 2) : from.upper)));
        }
    };
    Source source = source_of(blockIdx.x);
    read_ahead(source, 0);

#pragma unroll
    for (int turn = 0; turn < 256 * 8 / THREADS; ++turn) {
        const int place = threadIdx.x + turn * THREADS, both = place / 8;
        const word entry = both_of(__ldg(values + (both >> 4)), __ldg(values + (both & 15)));
        uint4* to = reinterpret_cast<uint4*>(table + both * 256 + place % 8 * 16);
        to[0] = make_uint4(entry, entry, entry, entry);
        if (NESTED && place % 8 < 2) {
            const float code = __ldg(absmax_code + both);
            reinterpret_cast<float4*>(to)[8] = make_float4(code, code, code, code);
        }
    }
    let_next_kernel_start();
    // Blocks behind have fewer tiles.
    const int my_low_rank = gridDim.x - 1 - blockIdx.x;
    wait_for_kernels_before();
    __syncthreads();
    if (my_low_rank < low_ranks) {
        unsigned made = 0;
        for (int count = my_low_rank; make_low_rank(weights, x, count, parts[1][0]); count += gridDim.x) ++made;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(&progress->low_ranks, made);
        }
    }

    if (__cvta_generic_to_shared(table) != TABLE_AT) asm("trap;");
    const word my_place = lane * 4;
    const auto weights_in = [&](word codes, int number) {
        return from_table(__byte_perm(codes, my_place, 0x5504 | number << 4));
    };
    const int token = group % 4;
    const bool has_x = token < TOKENS && (group < 4) == (quarter < 2);
    const half* my_x = x + (long long)(has_x ? token : 0) * k + warp * PIECE + quarter * A_LANE;
    word xs[8] = {};  // stay 0 in lanes that have none
    // Of the thread as one of those that sum up.
    const int summed = threadIdx.x / A_ROW, sub = threadIdx.x % A_ROW;

    int side = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, side ^= 1) {
        int own = tile;
        const Weight& weight = weights.each[weight_of(own)];
        const int real = min(own * TILE + summed, weight.n - 1);
        if (summed < TILE) {
#pragma unroll
            for (int of = 0; of < ADAPTERS; ++of) {
                const Adapter& adapter = weight.adapters[of];
                const float* b = adapter.lora_b + (long long)real * adapter.rank;
#pragma unroll 1
                for (int j = sub; j < adapter.rank; j += A_ROW) prefetch(b + j);
            }
        }
        const int row = row_of(weight, own), first_scale = row * SCALES + (warp * PIECE + quarter * A_LANE >> BLOCK_BITS);
        const int upper_scale = to_upper(weight, row) * SCALES;
#if NESTED
        const float offset = __ldg(weight.absmax_offset);
        const byte* scale_codes_from = static_cast<const byte*>(weight.absmax) + first_scale;
#else
        const float* scales_from = static_cast<const float*>(weight.absmax) + first_scale;
#endif
        const bool is_last = tile + gridDim.x >= tiles;
        Source next = source;
        if (!is_last) next = source_of(tile + gridDim.x);
        float sums[4] = {};
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const uint4 codes[2] = {ahead[0], ahead[1]};
            if (turn + 1 < TURNS)
                read_ahead(source, turn + 1);
            else if (!is_last)
                read_ahead(next, 0);
            // Where no piece is left the scales are 0; what they scale may be anything.
            const bool there = warp + turn * WARPS < PIECES;
            float outer[2];
            int scale_codes[2];
#pragma unroll
            for (int upper = 0; upper < 2; ++upper) {
                const int at = there ? (turn * PASSED >> BLOCK_BITS) + upper * upper_scale : 0;
#if NESTED
                scale_codes[upper] = read_byte(scale_codes_from + at);
                outer[upper] = read_float(weight.absmax_scale + (first_scale + at >> 8));
#else
                outer[upper] = read_float(scales_from + at);
#endif
            }
            float part[4] = {};
#pragma unroll
            for (int eight = 0; eight < 4; ++eight) {  // weights of a lane in two products
                word* of_x = xs + eight % 2 * 4;
                read_if(has_x && there, of_x, my_x + turn * PASSED + eight * 8);
                const uint4 one = codes[0], other = codes[1];
                const word low = eight == 0 ? one.x : eight == 1 ? one.y : eight == 2 ? one.z : one.w;
                const word high = eight == 0 ? other.x : eight == 1 ? other.y : eight == 2 ? other.z : other.w;
#pragma unroll
                for (int product = 0; product < 2; ++product) {
                    const word a[4] = {
                        weights_in(low, 2 * product),
                        weights_in(high, 2 * product),
                        weights_in(low, 2 * product + 1),
                        weights_in(high, 2 * product + 1),
                    };
                    multiply(part, a, of_x + 2 * product);
                }
            }
#pragma unroll
            for (int upper = 0; upper < 2; ++upper) {
                float scale = outer[upper];
#if NESTED
                const word code = from_table(scale_codes[upper] * 256 | 128 | group * 4);
                scale = __uint_as_float(code) * scale + offset;
#endif
                scale = there ? scale : 0;
                sums[2 * upper] += part[2 * upper] * scale;
                sums[2 * upper + 1] += part[2 * upper + 1] * scale;
            }
        }
        source = next;
        // Lanes of quarters 0 and 2 hold tokens 0 and 1 of two blocks, those of 1 and 3 tokens 2 and 3.
#pragma unroll
        for (int place = 0; place < 4; ++place) sums[place] += __shfl_xor_sync(~0u, sums[place], 2);
        if (quarter < 2) {
#pragma unroll
            for (int place = 0; place < 4; ++place) {
                const int t = 2 * quarter + place % 2;
                if (t < TOKENS) parts[side][warp][group + 8 * (place / 2)][t] = sums[place];
            }
        }
        __syncthreads();
        if (summed < TILE) {
            if (tile == blockIdx.x && low_ranks) {
                unsigned made;
                do {
                    asm volatile("ld.acquire.gpu.b32 %0, [%1];" : "=r"(made) : "l"(&progress->low_ranks) : "memory");
                } while (made < low_ranks);
            }
            float found[TOKENS] = {};
#pragma unroll
            for (int from = 0; from < WARPS; from += A_ROW)
                if (from + sub < WARPS)
#pragma unroll
                    for (int t = 0; t < TOKENS; ++t) found[t] += parts[side][from + sub][summed][t];
#pragma unroll
            for (int of = 0; of < ADAPTERS; ++of) {
                const Adapter& adapter = weight.adapters[of];
                const int rank = adapter.rank;
                const float* b = adapter.lora_b + (long long)real * rank;
#pragma unroll 4
                for (int j = sub; j < rank; j += A_ROW) {
                    const float from_b = __ldg(b + j);
#pragma unroll
                    for (int t = 0; t < SERVED; ++t)
                        found[of * SERVED + t] += from_b * low_of(adapter.low_rank[t * rank + j]);
                }
            }
#pragma unroll
            for (int t = 0; t < TOKENS; ++t) {
                float sum = sum_of_lanes(found[t], A_ROW);
                if (sub == 0 && own * TILE + summed < weight.n) {
                    if (weight.bias) sum += low_of(weight.bias[real]);
                    weight.y[(long long)t * weight.n + real] = rounded(sum);
                }
            }
        }
    }
    if (low_ranks) {
        __syncthreads();
        if (threadIdx.x == 0 && atomicAdd(&progress->blocks, 1u) == gridDim.x - 1) *progress = {0, 0};
    }
}

// low_rank[t, j] = scaling * sum over k of x[t, k] A[j, k]. A block of threads for each j; ADAPTERS is 1.
extern "C" __global__ void __launch_bounds__(THREADS) low_ranks(
    const __grid_constant__ Weights weights,
    const half* __restrict__ x  // [TOKENS, k]
) {
    __shared__ float parts[WARPS][TOKENS];
    let_next_kernel_start();
    wait_for_kernels_before();
    make_low_rank(weights, x, blockIdx.x, parts);
}
