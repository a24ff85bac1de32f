// Products of a 4-bit weight with the few tokens of replies being written: each weight is read once, and the
// card does little else than read. Compiled by few_rows.py, which defines:
//   TOKENS  rows of x, 1 to 4
//   WARPS   of a block of threads; they share out the columns
//   NESTED  the scales are quantized again
//   HALF    x is float16, else bfloat16

typedef unsigned char byte;
typedef unsigned short half;  // a float16 or bfloat16 as it lies in memory
typedef unsigned int word;    // two of them, the first in the low bits

constexpr int LANES = 32;
constexpr int TILE = 16;    // rows of the weight that a block of threads works on
constexpr int PIECE = 128;  // columns that a warp works on
constexpr int A_LANE = 32;  // of these a lane's: 16 bytes

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

// y[t, n] = sum over k of W[n, k] x[t, k], + bias[n] + sum over j of lora_b[n, j] low_rank[t, j]
//
// A piece is two blocks of 64 columns, each with a scale of its own, but one product sums over both. So x
// stands twice in it: for columns 0 to 3 of the result where the first block is, for 4 to 7 where the second.
extern "C" __global__ void __launch_bounds__(WARPS * LANES) few_rows(
    const uint4* __restrict__ packed,        // [n, k / 32]
    const void* __restrict__ absmax,         // float [n * k / block], or bytes where NESTED
    const float* __restrict__ absmax_scale,  // [blocks / 256]
    const float* __restrict__ absmax_code,   // [256]
    const float* __restrict__ absmax_offset,
    const float* __restrict__ values,   // [16]
    const half* __restrict__ x,         // [TOKENS, k]
    const half* __restrict__ bias,      // [n], read where has_bias
    const half* __restrict__ low_rank,  // [TOKENS, rank]
    const float* __restrict__ lora_b,   // [n, rank]
    half* __restrict__ y,               // [TOKENS, n]
    int n, int k, int block, int has_bias, int rank
) {
    // A byte's two weights are looked up at once; each lane has a table of its own, so that none waits.
    __shared__ word table[256 * LANES];
    __shared__ float code[256];
    __shared__ float parts[2][WARPS][TILE][TOKENS];

    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int group = lane / 4, quarter = lane % 4;  // a row of the tile, a quarter of the piece
    const int pieces = k / PIECE, tiles = (n + TILE - 1) / TILE;
    const int turns = (pieces + WARPS - 1) / WARPS;  // of a warp, a piece each
    const int token = group % 4;
    const bool has_x = token < TOKENS && (group < 4) == (quarter < 2);

    // What comes next is read while this is multiplied.
    uint4 codes[2];  // of rows `group` and `group` + 8
    float scales[2];
    int scale_codes[2];
    const auto load = [&](int tile, int turn) {
        const int piece = warp + turn * WARPS;
        const bool there = tile < tiles && piece < pieces;
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
            const int row = min(tile * TILE + group + 8 * upper, n - 1);
            const int column = piece * PIECE + quarter * A_LANE;
            const long long at = (long long)row * k + column;
            codes[upper] = there ? __ldcs(packed + at / A_LANE) : make_uint4(0, 0, 0, 0);
            const int scale = at / block;
#ifdef NESTED
            scale_codes[upper] = there ? static_cast<const byte*>(absmax)[scale] : 0;
            scales[upper] = there ? absmax_scale[scale >> 8] : 0;
#else
            scales[upper] = there ? static_cast<const float*>(absmax)[scale] : 0;
#endif
        }
    };
    load(blockIdx.x, 0);

    for (int place = threadIdx.x; place < 256 * LANES / 4; place += WARPS * LANES) {
        const int both = place / (LANES / 4);
        const word entry = both_of(values[both >> 4], values[both & 15]);
        reinterpret_cast<uint4*>(table)[place] = make_uint4(entry, entry, entry, entry);
    }
    float offset = 0;
#ifdef NESTED
    for (int place = threadIdx.x; place < 256; place += WARPS * LANES) code[place] = absmax_code[place];
    offset = *absmax_offset;
#endif
    __syncthreads();

    const word* mine = table + lane;
    int side = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, side ^= 1) {
        float sums[4] = {};
        for (int turn = 0; turn < turns; ++turn) {
            const int piece = warp + turn * WARPS;
            const bool there = has_x && piece < pieces;
            const uint4* from =
                reinterpret_cast<const uint4*>(x + (long long)token * k + piece * PIECE + quarter * A_LANE);
            float part[4] = {};
#pragma unroll
            for (int eight = 0; eight < 4; ++eight) {  // weights of a lane in two products
                const uint4 xs = there ? from[eight] : make_uint4(0, 0, 0, 0);
                const word* b = &xs.x;
                const uint4 one = codes[0], other = codes[1];
                const word low = eight == 0 ? one.x : eight == 1 ? one.y : eight == 2 ? one.z : one.w;
                const word high = eight == 0 ? other.x : eight == 1 ? other.y : eight == 2 ? other.z : other.w;
#pragma unroll
                for (int product = 0; product < 2; ++product) {
                    const word a[4] = {
                        mine[((low >> (16 * product)) & 255) * LANES],
                        mine[((high >> (16 * product)) & 255) * LANES],
                        mine[((low >> (16 * product + 8)) & 255) * LANES],
                        mine[((high >> (16 * product + 8)) & 255) * LANES],
                    };
                    multiply(part, a, b + 2 * product);
                }
            }
#pragma unroll
            for (int upper = 0; upper < 2; ++upper) {
#ifdef NESTED
                const float scale = code[scale_codes[upper]] * scales[upper] + offset;
#else
                const float scale = scales[upper];
#endif
                sums[2 * upper] += part[2 * upper] * scale;
                sums[2 * upper + 1] += part[2 * upper + 1] * scale;
            }
            const bool over = turn + 1 == turns;
            load(over ? tile + gridDim.x : tile, over ? 0 : turn + 1);
        }
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
        // 16 threads a row sum up what the warps found, and what the adapter adds.
        for (int thread = threadIdx.x; thread < TILE * 16; thread += WARPS * LANES) {
            const int row = thread / 16, sub = thread % 16, real = min(tile * TILE + row, n - 1);
#pragma unroll
            for (int t = 0; t < TOKENS; ++t) {
                float sum = 0;
                for (int from = sub; from < WARPS; from += 16) sum += parts[side][from][row][t];
                for (int j = sub; j < rank; j += 16)
                    sum += lora_b[(long long)real * rank + j] * low_of(low_rank[t * rank + j]);
                for (int other = 8; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
                if (sub == 0 && tile * TILE + row < n) {
                    if (has_bias) sum += low_of(bias[real]);
                    y[(long long)t * n + real] = rounded(sum);
                }
            }
        }
    }
}

// low_rank[t, j] = scaling * sum over k of x[t, k] A[j, k]. A block of threads for each j and t.
extern "C" __global__ void __launch_bounds__(WARPS * LANES) low_rank_of(
    const half* __restrict__ x,        // [TOKENS, k]
    const float* __restrict__ lora_a,  // [rank, k]
    half* __restrict__ low_rank,       // [TOKENS, rank]
    double scaling, int k, int rank
) {
    __shared__ float parts[WARPS];
    const int j = blockIdx.x, t = blockIdx.y;
    const float4* a = reinterpret_cast<const float4*>(lora_a + (long long)j * k);
    const uint2* row = reinterpret_cast<const uint2*>(x + (long long)t * k);
    float sum = 0;
    for (int four = threadIdx.x; four < k / 4; four += WARPS * LANES) {
        const float4 weights = a[four];
        const uint2 xs = row[four];
        sum += weights.x * low_of(xs.x) + weights.y * high_of(xs.x);
        sum += weights.z * low_of(xs.y) + weights.w * high_of(xs.y);
    }
    for (int other = LANES / 2; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
    if (threadIdx.x % LANES == 0) parts[threadIdx.x / LANES] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < WARPS; ++warp) sum += parts[warp];
        low_rank[t * rank + j] = rounded(float(scaling) * sum);
    }
}
