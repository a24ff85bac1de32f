// What lies between the products of a token, each in one kernel: as a model writes it, it is two to ten. Results are
// rounded where the model rounds them. Compiled by one_token.py, which defines HALF and EARLY as few_rows.cu has them.

typedef unsigned short half;  // a float16 or bfloat16 as it lies in memory
typedef unsigned int word;

constexpr int THREADS = 256;
constexpr int NORM_THREADS = 512;
constexpr int NORM_TURNS = 4;  // so rows of up to 16,384 columns

__device__ float value_of(half value) {
#ifdef HALF
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
#else
    return __uint_as_float(word(value) << 16);
#endif
}

__device__ half half_of(float value) {
    half narrow;
#ifdef HALF
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
#endif
    return narrow;
}

__device__ float rounded(float value) { return value_of(half_of(value)); }

// Until all that the kernels before this one wrote can be read.
__device__ void wait_for_kernels_before() {
#ifdef EARLY
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// y = silu(gate) * up
extern "C" __global__ void __launch_bounds__(THREADS) gated_silu(
    const half* gate, const half* up, half* y, int count
) {
    wait_for_kernels_before();
    const int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    const float x = value_of(gate[at]);
    y[at] = half_of(rounded(x / (1 + expf(-x))) * value_of(up[at]));
}

// A block of threads for each head of each text: first the query's, then the key's. Halves of a head turn against
// each other.
extern "C" __global__ void __launch_bounds__(THREADS) rotate(
    const half* query,  // [texts, heads, head_dim]
    const half* key,    // [texts, kv_heads, head_dim]
    const half* cosine, const half* sine,  // [texts, head_dim]
    half* rotated_query, half* rotated_key, int heads, int head_dim
) {
    wait_for_kernels_before();
    const int head = blockIdx.y, kv_heads = gridDim.y - heads;
    const long long text = blockIdx.x;
    const bool is_query = head < heads;
    const long long row = is_query ? text * heads + head : text * kv_heads + head - heads;
    const half* x = (is_query ? query : key) + row * head_dim;
    half* y = (is_query ? rotated_query : rotated_key) + row * head_dim;
    cosine += text * head_dim;
    sine += text * head_dim;
    const int middle = head_dim / 2;
    for (int at = threadIdx.x; at < head_dim; at += THREADS) {
        const float other = at < middle ? -value_of(x[at + middle]) : value_of(x[at - middle]);
        y[at] = half_of(rounded(value_of(x[at]) * value_of(cosine[at])) + rounded(other * value_of(sine[at])));
    }
}

// Puts each text's token's keys and values where the cache has its place.
extern "C" __global__ void __launch_bounds__(THREADS) keep_token(
    half* keys, half* values,              // [places, width]
    const half* key, const half* value,    // [texts, width]
    const long long* place, int width      // [texts]
) {
    wait_for_kernels_before();
    const int at = blockIdx.x * THREADS + threadIdx.x, text = blockIdx.y;
    if (at >= width) return;
    keys[place[text] * width + at] = key[text * width + at];
    values[place[text] * width + at] = value[text * width + at];
}

// y = x / sqrt(mean(x^2) + epsilon) * weight, a block of threads for each row; rounded once.
extern "C" __global__ void __launch_bounds__(NORM_THREADS) rms_norm(
    const uint4* x, const uint4* weight, uint4* y,  // [rows, n / 8], [n / 8]
    int n, float epsilon
) {
    __shared__ float parts[NORM_THREADS / 32];
    const int eights = n / 8;
    x += (long long)blockIdx.x * eights;
    y += (long long)blockIdx.x * eights;
    uint4 weights[NORM_TURNS], xs[NORM_TURNS];
#pragma unroll
    for (int turn = 0; turn < NORM_TURNS; ++turn) {
        const int at = threadIdx.x + turn * NORM_THREADS;
        weights[turn] = at < eights ? weight[at] : make_uint4(0, 0, 0, 0);
    }
    wait_for_kernels_before();
    float sum = 0;
#pragma unroll
    for (int turn = 0; turn < NORM_TURNS; ++turn) {
        const int at = threadIdx.x + turn * NORM_THREADS;
        xs[turn] = at < eights ? x[at] : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int of = 0; of < 8; ++of) {
            const float value = value_of(reinterpret_cast<const half*>(xs + turn)[of]);
            sum += value * value;
        }
    }
    for (int other = 16; other; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < NORM_THREADS / 32; ++warp) sum += parts[warp];
    const float factor = 1 / sqrtf(sum / n + epsilon);
#pragma unroll
    for (int turn = 0; turn < NORM_TURNS; ++turn) {
        const int at = threadIdx.x + turn * NORM_THREADS;
        uint4 found;
#pragma unroll
        for (int of = 0; of < 8; ++of) {
            const float value = value_of(reinterpret_cast<const half*>(xs + turn)[of]) * factor;
            reinterpret_cast<half*>(&found)[of] =
                half_of(value * value_of(reinterpret_cast<const half*>(weights + turn)[of]));
        }
        if (at < eights) y[at] = found;
    }
}
