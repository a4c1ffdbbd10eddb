// Local response normalisation fused with the 3x3 max pool of stride 2 that follows or precedes it, 16 bytes of channels a
// thread. What lies between the two is rounded to the activations' type, as it would be in memory: results are those of the
// two kernels, bit for bit. Towers, the output's channels and the place of its first are multiples of a vector's channels,
// and the reach is VECTOR_REACH.
#include "common/args.cuh"
#include "common/maximum.cuh"
#include "common/normalise.cuh"

namespace lrn_pool {
constexpr int THREADS = 256;
constexpr int KERNEL = 3, STRIDE = 2; // of the pool

// LRN, then pool. A value is in up to four windows and costs two square roots and a division: a block normalises the pixels
// of TILE x TILE windows once, in shared memory, SLICE vectors of each. 27 and 13 outputs are whole tiles but for one.
constexpr int TILE = 7, SIDE = (TILE - 1) * STRIDE + KERNEL, SLICE = 4;
// Even columns come first, so that neighbouring windows read neighbouring pixels: all banks once.
constexpr int EVEN_COLUMNS = (SIDE + 1) / 2;

template <typename T>
__device__ void lrn_max_pool(const LrnPoolArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    __shared__ Vector<T> tile[SIDE * SIDE * SLICE];
    const int vectors = args.c / SIZE, slices = (vectors + SLICE - 1) / SLICE;
    const int rows = (args.p + TILE - 1) / TILE, columns = (args.q + TILE - 1) / TILE;
    const T* input = static_cast<const T*>(args.input);
    T* output = static_cast<T*>(args.output);
    for (long long index = blockIdx.x; index < static_cast<long long>(args.n) * rows * columns * slices;
         index += gridDim.x) {
        const int first = static_cast<int>(index % slices) * SLICE; // vector
        const int first_q = static_cast<int>(index / slices % columns) * TILE;
        const int first_p = static_cast<int>(index / slices / columns % rows) * TILE;
        const long long n = index / slices / columns / rows;
        for (int i = threadIdx.x; i < SIDE * SIDE * SLICE; i += THREADS) {
            const int c = (first + i % SLICE) * SIZE;
            const int at = i / SLICE % SIDE, column = at < EVEN_COLUMNS ? 2 * at : 2 * (at - EVEN_COLUMNS) + 1;
            const int w = first_q * STRIDE + column, h = first_p * STRIDE + i / SLICE / SIDE;
            if (c < args.c && w < args.w && h < args.h) {
                const T* centre = input + ((n * args.h + h) * args.w + w) * args.input_c + args.first + c;
                tile[i] = normalise_at(centre, (args.first + c) % args.tower, args.tower, args.scale, args.k);
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * TILE * SLICE; i += THREADS) {
            const int c = (first + i % SLICE) * SIZE;
            const int column = i / SLICE % TILE, row = i / SLICE / TILE;
            const int q = first_q + column, p = first_p + row;
            if (c < args.c && q < args.q && p < args.p) {
                const Vector<T>* corner = tile + (row * STRIDE * SIDE + column) * SLICE + i % SLICE;
                Maximum<T, SIZE> maximum;
#pragma unroll
                for (int tap = 0; tap < KERNEL * KERNEL; tap++) {
                    const int r = tap / KERNEL, s = tap % KERNEL;
                    const int from_corner = r * SIDE + s / 2 + s % 2 * EVEN_COLUMNS;
                    maximum.take(load_shared_vector(corner[from_corner * SLICE].element));
                }
                store_vector(output + ((n * args.p + p) * args.q + q) * args.pitch + c, maximum.stored());
            }
        }
        __syncthreads(); // the next tile takes this one's place
    }
}

// Pool, then LRN. Neighbours are pooled by the neighbouring threads; the first and last thread of a block serve theirs alone.
constexpr int OUTPUTS = THREADS - 2;

template <typename T>
__device__ void max_pool_lrn(const LrnPoolArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    __shared__ Vector<T> pooled[THREADS];
    const int vectors = args.c / SIZE;
    const long long count = static_cast<long long>(args.n) * args.p * args.q * vectors;
    const int tid = threadIdx.x;
    for (long long first = static_cast<long long>(blockIdx.x) * OUTPUTS; first < count;
         first += static_cast<long long>(gridDim.x) * OUTPUTS) {
        const long long index = first + tid - 1;
        const int c = static_cast<int>(index % vectors) * SIZE;
        if (index >= 0 && index < count) {
            const long long pixel = index / vectors;
            const int q = static_cast<int>(pixel % args.q), p = static_cast<int>(pixel / args.q % args.p);
            const long long n = pixel / args.q / args.p;
            const T* corner = static_cast<const T*>(args.input) +
                              ((n * args.h + p * STRIDE) * args.w + q * STRIDE) * args.c + c;
            Maximum<T, SIZE> maximum;
#pragma unroll
            for (int tap = 0; tap < KERNEL * KERNEL; tap++) {
                maximum.take(load_vector(corner + (tap / KERNEL * args.w + tap % KERNEL) * args.c));
            }
            pooled[tid] = maximum.stored();
        }
        __syncthreads();
        if (tid > 0 && tid <= OUTPUTS && index < count) {
            const int place = c % args.tower;
            const T* centre = pooled[tid].element;
            const auto neighbours = [](const T* first) { return *reinterpret_cast<const Neighbours<T>*>(first); };
            const Neighbours<T> before = place > 0 ? neighbours(centre - VECTOR_REACH) : Neighbours<T>{};
            const Neighbours<T> after = place + SIZE < args.tower ? neighbours(centre + SIZE) : Neighbours<T>{};
            const Vector<T> result = normalise(before, load_shared_vector(centre), after, args.scale, args.k);
            store_vector(static_cast<T*>(args.output) + index / vectors * args.pitch + c, result);
        }
        __syncthreads(); // the next vectors take these ones' place
    }
}

#define LRN_POOL_KERNELS(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) lrn_max_pool_##NAME(const LrnPoolArgs args) {                \
        lrn_max_pool<T>(args);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) max_pool_lrn_##NAME(const LrnPoolArgs args) {                \
        max_pool_lrn<T>(args);                                                                                         \
    }
LRN_POOL_KERNELS(f32, float)
LRN_POOL_KERNELS(f16, __half)
LRN_POOL_KERNELS(bf16, __nv_bfloat16)
} // namespace lrn_pool
