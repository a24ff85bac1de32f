// Attention of one token of each text over what is kept of the tokens before it. Compiled by one_query.py, which
// defines HALF and EARLY as few_rows.cu has them, and:
//   HEAD_DIM  64, 128 or 256
//   GROUPS    heads that share a head of the keys, up to 8
//   SPLITS    blocks of threads that share a text's tokens

typedef unsigned short half;  // a float16 or bfloat16 as it lies in memory
typedef unsigned int word;

constexpr int LANES = 32, WARPS = 4, THREADS = WARPS * LANES;
constexpr int OF_LANE = 8;                  // values of a head: 16 bytes
constexpr int A_KEY = HEAD_DIM / OF_LANE;   // lanes that share a key
constexpr int KEYS = LANES / A_KEY;         // of a warp at once
constexpr int READERS = WARPS * KEYS;       // of a block: each goes through tokens of its own
constexpr int AHEAD = 4;                    // tokens that a reader has on their way
constexpr float LOWEST = -1e30f;

__device__ float low_of(word two) {
#ifdef HALF
    float value;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(value) : "r"(two));
    return value;
#else
    return __uint_as_float(two << 16);
#endif
}

__device__ half rounded(float value) {
    half narrow;
#ifdef HALF
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
#endif
    return narrow;
}

__device__ void widen(const uint4& from, float* to) {
    const word words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int at = 0; at < 4; ++at) {
        to[2 * at] = low_of(words[at]);
        to[2 * at + 1] = low_of(words[at] >> 16);
    }
}

// What some of the tokens give: sum of 2^(score - top) value, and of 2^(score - top).
struct Part {
    float sum[GROUPS * HEAD_DIM];
    float top[GROUPS], weight[GROUPS];
};

extern "C" __global__ void __launch_bounds__(THREADS) attend(
    const half* __restrict__ query,  // [texts, kv_heads, GROUPS, HEAD_DIM]
    const half* __restrict__ key,    // [texts, capacity, kv_heads, HEAD_DIM]
    const half* __restrict__ value,  // the same
    const int* __restrict__ used,    // [texts]
    half* __restrict__ out,          // [texts, kv_heads, GROUPS, HEAD_DIM]
    Part* parts,                     // [texts, kv_heads, SPLITS]
    unsigned* done,                  // [texts * kv_heads] splits that are through; 0 between kernels
    int capacity, int window,
    float scale  // of scores, times log2(e)
) {
    __shared__ float sums[READERS][GROUPS][HEAD_DIM];
    __shared__ float tops[READERS][GROUPS], weights[READERS][GROUPS];
    __shared__ bool is_last;
    const int split = blockIdx.x, kv_head = blockIdx.y, kv_heads = gridDim.y, text = blockIdx.z;
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int reader = warp * KEYS + lane / A_KEY, first_value = lane % A_KEY * OF_LANE;
#ifdef EARLY
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long head = (long long)text * kv_heads + kv_head;
    const int count = used[text], first = window && count > window ? count - window : 0;
    const int share = (count - first + SPLITS - 1) / SPLITS;
    const int begin = first + split * share, end = min(begin + share, count);

    float q[GROUPS][OF_LANE], sum[GROUPS][OF_LANE] = {}, top[GROUPS], weight[GROUPS] = {};
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        top[group] = LOWEST;
        widen(*reinterpret_cast<const uint4*>(query + (head * GROUPS + group) * HEAD_DIM + first_value), q[group]);
#pragma unroll
        for (int at = 0; at < OF_LANE; ++at) q[group][at] *= scale;
    }
    for (int from = begin; from < end; from += READERS * AHEAD) {
        uint4 keys[AHEAD], values[AHEAD];
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ++ahead) {
            const int token = min(from + ahead * READERS + reader, end - 1);
            const long long at = (((long long)text * capacity + token) * kv_heads + kv_head) * HEAD_DIM + first_value;
            keys[ahead] = *reinterpret_cast<const uint4*>(key + at);
            values[ahead] = *reinterpret_cast<const uint4*>(value + at);
        }
        float scores[AHEAD][GROUPS];
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ++ahead) {
            float k[OF_LANE];
            widen(keys[ahead], k);
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                float score = 0;
#pragma unroll
                for (int at = 0; at < OF_LANE; ++at) score += q[group][at] * k[at];
                scores[ahead][group] = score;
            }
        }
#pragma unroll
        for (int other = A_KEY / 2; other; other /= 2)
#pragma unroll
            for (int ahead = 0; ahead < AHEAD; ++ahead)
#pragma unroll
                for (int group = 0; group < GROUPS; ++group)
                    scores[ahead][group] += __shfl_xor_sync(~0u, scores[ahead][group], other);
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            float higher = top[group];
#pragma unroll
            for (int ahead = 0; ahead < AHEAD; ++ahead)
                if (from + ahead * READERS + reader < end) higher = fmaxf(higher, scores[ahead][group]);
            const float shrunk = exp2f(top[group] - higher);
            top[group] = higher;
            weight[group] *= shrunk;
#pragma unroll
            for (int at = 0; at < OF_LANE; ++at) sum[group][at] *= shrunk;
#pragma unroll
            for (int ahead = 0; ahead < AHEAD; ++ahead) {
                const bool there = from + ahead * READERS + reader < end;
                scores[ahead][group] = there ? exp2f(scores[ahead][group] - higher) : 0;
                weight[group] += scores[ahead][group];
            }
        }
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ++ahead) {
            float v[OF_LANE];
            widen(values[ahead], v);
#pragma unroll
            for (int group = 0; group < GROUPS; ++group)
#pragma unroll
                for (int at = 0; at < OF_LANE; ++at) sum[group][at] += scores[ahead][group] * v[at];
        }
    }
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        tops[reader][group] = top[group];
        weights[reader][group] = weight[group];
#pragma unroll
        for (int at = 0; at < OF_LANE; ++at) sums[reader][group][first_value + at] = sum[group][at];
    }
    __syncthreads();
    Part* mine = parts + head * SPLITS;
    for (int place = threadIdx.x; place < GROUPS * HEAD_DIM; place += THREADS) {
        const int group = place / HEAD_DIM, at = place % HEAD_DIM;
        float highest = LOWEST, all = 0, found = 0;
#pragma unroll
        for (int from = 0; from < READERS; ++from) highest = fmaxf(highest, tops[from][group]);
#pragma unroll
        for (int from = 0; from < READERS; ++from) {
            const float shrunk = exp2f(tops[from][group] - highest);
            all += shrunk * weights[from][group];
            found += shrunk * sums[from][group][at];
        }
        mine[split].sum[place] = found;
        mine[split].top[group] = highest;
        mine[split].weight[group] = all;
    }
    // Who is through last puts together what all have found.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(done + head, 1u) == SPLITS - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    __shared__ float shares[SPLITS][GROUPS];
    for (int group = warp; group < GROUPS; group += WARPS) {
        float highest = LOWEST, all = 0;
        for (int from = lane; from < SPLITS; from += LANES) highest = fmaxf(highest, __ldcg(&mine[from].top[group]));
        for (int other = LANES / 2; other; other /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, other));
        for (int from = lane; from < SPLITS; from += LANES) {
            shares[from][group] = exp2f(__ldcg(&mine[from].top[group]) - highest);
            all += shares[from][group] * __ldcg(&mine[from].weight[group]);
        }
        for (int other = LANES / 2; other; other /= 2) all += __shfl_xor_sync(~0u, all, other);
        for (int from = lane; from < SPLITS; from += LANES) shares[from][group] /= all;
    }
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < (GROUPS * HEAD_DIM + THREADS - 1) / THREADS; ++turn) {
        const int place = threadIdx.x + turn * THREADS;
        if (place >= GROUPS * HEAD_DIM) break;
        float found = 0;
#pragma unroll 16
        for (int from = 0; from < SPLITS; ++from)
            found += shares[from][place / HEAD_DIM] * __ldcg(&mine[from].sum[place]);
        out[head * GROUPS * HEAD_DIM + place] = rounded(found);
    }
    if (threadIdx.x == 0) done[head] = 0;
}
