// A tiled convolution as implicit GEMM: struct parameters, vector loads, shared tiles, index division.
struct Shape {
    int height, width, channels, filters, size, stride, pad, out_height, out_width;
};
struct Args {
    const float* input;
    const float* weights;
    const float* bias;
    float* output;
    Shape shape;
    int batch;
    int relu;
};
constexpr int TILE = 32, DEPTH = 8;

// input NHWC, weights KRSC with channels a multiple of 4, output NHWC.
extern "C" __global__ __launch_bounds__(64, 2) void conv_tiled(const Args args) {
    __shared__ __align__(16) float a[DEPTH][TILE + 4];
    __shared__ __align__(16) float b[DEPTH][TILE + 4];
    const Shape& s = args.shape;
    const int pixels = args.batch * s.out_height * s.out_width;
    const int depth = s.size * s.size * s.channels;
    const int row = threadIdx.x >> 1, half = (threadIdx.x & 1) * 4;
    const int pixel = blockIdx.x * TILE + row, filter = blockIdx.y * TILE + row;
    const int n = pixel / (s.out_height * s.out_width), rest = pixel % (s.out_height * s.out_width);
    const int oy = rest / s.out_width * s.stride - s.pad, ox = rest % s.out_width * s.stride - s.pad;
    const int ty = threadIdx.x / 8, tx = threadIdx.x % 8;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += DEPTH) {
        const int k = k0 + half;
        float4 x = make_float4(0, 0, 0, 0), w = make_float4(0, 0, 0, 0);
        if (k < depth) {
            const int c = k % s.channels, tap = k / s.channels;
            const int y = oy + tap / s.size, xx = ox + tap % s.size;
            if (pixel < pixels && unsigned(y) < unsigned(s.height) && unsigned(xx) < unsigned(s.width))
                x = __ldg(reinterpret_cast<const float4*>(
                    args.input + ((size_t)(n * s.height + y) * s.width + xx) * s.channels + c));
            if (filter < s.filters)
                w = __ldg(reinterpret_cast<const float4*>(args.weights + (size_t)filter * depth + k));
        }
        a[half][row] = x.x, a[half + 1][row] = x.y, a[half + 2][row] = x.z, a[half + 3][row] = x.w;
        b[half][row] = w.x, b[half + 1][row] = w.y, b[half + 2][row] = w.z, b[half + 3][row] = w.w;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const float4 p = *reinterpret_cast<const float4*>(&a[i][ty * 4]);
            const float4 q = *reinterpret_cast<const float4*>(&b[i][tx * 4]);
            const float u[4] = {p.x, p.y, p.z, p.w}, v[4] = {q.x, q.y, q.z, q.w};
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) acc[r][c] = fmaf(u[r], v[c], acc[r][c]);
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; r++) {
        const int p = blockIdx.x * TILE + ty * 4 + r;
        for (int c = 0; c < 4; c++) {
            const int f = blockIdx.y * TILE + tx * 4 + c;
            if (p < pixels && f < s.filters) {
                float v = acc[r][c] + args.bias[f];
                if (args.relu) v = v < 0.0f ? 0.0f : v;
                args.output[(size_t)p * s.filters + f] = v;
            }
        }
    }
}
