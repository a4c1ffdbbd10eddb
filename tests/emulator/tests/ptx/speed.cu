// Kernels to measure the interpreter with.
extern "C" __global__ void fma_loop(float* out, int rounds) {
    float a = threadIdx.x, b = 0.5f, c = 0.25f, d = 1.0f;
    for (int i = 0; i < rounds; i++) {
        a = fmaf(a, 0.999f, b), b = fmaf(b, 0.998f, c), c = fmaf(c, 0.997f, d), d = fmaf(d, 0.996f, a);
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}

extern "C" __global__ void shared_loop(float* out, int rounds) {
    __shared__ float tile[256];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < rounds; i++) {
        sum += tile[(threadIdx.x + i * 33) & 255];
        __syncthreads();
        tile[threadIdx.x ^ 1] = sum;
        __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// c = a b, n a multiple of 32; 64 threads compute a tile of 32 by 32.
extern "C" __global__ void matmul(const float* __restrict__ a, const float* __restrict__ b, float* c, int n) {
    __shared__ __align__(16) float x[8][36], y[8][32];
    const int tx = threadIdx.x % 8, ty = threadIdx.x / 8, row = blockIdx.y * 32, column = blockIdx.x * 32;
    const int load_row = threadIdx.x / 2, load_depth = threadIdx.x % 2 * 4;
    float sum[4][4] = {};
    for (int k = 0; k < n; k += 8) {
        const float4 u = *reinterpret_cast<const float4*>(a + (row + load_row) * n + k + load_depth);
        x[load_depth][load_row] = u.x, x[load_depth + 1][load_row] = u.y;
        x[load_depth + 2][load_row] = u.z, x[load_depth + 3][load_row] = u.w;
        *reinterpret_cast<float4*>(&y[threadIdx.x / 8][threadIdx.x % 8 * 4]) =
            *reinterpret_cast<const float4*>(b + (k + threadIdx.x / 8) * n + column + threadIdx.x % 8 * 4);
        __syncthreads();
        for (int i = 0; i < 8; i++) {
            const float4 p = *reinterpret_cast<const float4*>(&x[i][ty * 4]);
            const float4 q = *reinterpret_cast<const float4*>(&y[i][tx * 4]);
            const float l[4] = {p.x, p.y, p.z, p.w}, r[4] = {q.x, q.y, q.z, q.w};
            for (int j = 0; j < 4; j++)
                for (int h = 0; h < 4; h++) sum[j][h] = fmaf(l[j], r[h], sum[j][h]);
        }
        __syncthreads();
    }
    for (int j = 0; j < 4; j++)
        *reinterpret_cast<float4*>(c + (row + ty * 4 + j) * n + column + tx * 4) =
            make_float4(sum[j][0], sum[j][1], sum[j][2], sum[j][3]);
}
