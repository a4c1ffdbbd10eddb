//! The mistakes.

/// A mistake: `before`, which the file has once, becomes `after`.
pub struct Mutation {
    pub name: &'static str,
    /// Below kernels/.
    pub file: &'static str,
    pub before: &'static str,
    pub after: &'static str,
    /// The source that is compiled: the file itself or one that includes it.
    pub source: &'static str,
    /// The test that must fail on it.
    pub test: &'static str,
}

const CONV: &str = "conv/conv_mma.cuh";
const CONV_F16: &str = "conv/conv_f16.cu";

const OPERANDS: &str = "guards::operands_f16";
const PIXELS: &str = "guards::pixels_are_read_within_bounds";
const NAN: &str = "kernels::cuda_f16::a_nan_survives_relu_and_pools";
const DROPOUT: &str = "dropout::cuda_f16::elements_are_dropped_or_doubled";
const LRN_AND_POOLS: &str = "fused::cuda_f16::lrn_and_pools";
const CONVOLUTIONS_AND_POOLS: &str = "fused::cuda_f16::convolutions_and_pools";
const TOWERS: &str = "split::cuda::halves_make_the_whole_in_float16";

pub const MUTATIONS: [Mutation; 39] = [
    Mutation {
        name: "dropped k",
        file: CONV,
        before: "(args.c / args.groups) + C::BLOCK_K - 1) / C::BLOCK_K;",
        after: "(args.c / args.groups) + C::BLOCK_K - 2) / C::BLOCK_K;",
        source: CONV_F16,
        test: NAN,
    },
    Mutation {
        name: "off-by-one padding",
        file: CONV,
        before: "const int w = pixel % args.q * args.stride - args.padding;",
        after: "const int w = pixel % args.q * args.stride - args.padding + (args.padding > 0);",
        source: CONV_F16,
        test: NAN,
    },
    Mutation {
        name: "swapped group",
        file: CONV,
        before: "args.c + group * group_c;",
        after: "args.c + (args.groups - 1 - group) * group_c;",
        source: CONV_F16,
        test: NAN,
    },
    Mutation {
        name: "stale stage",
        file: CONV,
        before: "cp_async_wait<C::STAGES - 2>();",
        after: "cp_async_wait<C::STAGES - 1>();",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "missing bias",
        file: CONV,
        before: "bias1 = finished && n + 1 < group_k ? __ldg(bias + n + 1) : 0.0f;",
        after: "bias1 = 0.0f;",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "missing ReLU",
        file: CONV,
        before: "value1 = max_nan(value1, 0.0f);",
        after: "",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "f16 accumulation",
        file: "ptx/mma.cuh",
        before: r#"DEFINE_MMA(__half, "m16n8k16", "f32.f16.f16.f32")"#,
        after: r#"template <>
__device__ __forceinline__ void mma<__half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    __half2 low = __floats2half2_rn(sum[0], sum[1]), high = __floats2half2_rn(sum[2], sum[3]);
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
        : "+r"(reinterpret_cast<uint32_t&>(low)), "+r"(reinterpret_cast<uint32_t&>(high))
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    sum[0] = __low2float(low), sum[1] = __high2float(low), sum[2] = __low2float(high), sum[3] = __high2float(high);
}"#,
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "wrong swizzle",
        file: CONV,
        before: "b_row = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, lane / 8 % 2);",
        after: "b_row = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, lane / 8 % 2 ^ lane / 16);",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "wrong LRN window",
        file: "lrn.cu",
        before: "high = min(c + args.reach, first + args.tower - 1);",
        after: "high = min(c + args.reach - 1, first + args.tower - 1);",
        source: "lrn.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "pool off by one",
        file: "pool.cu",
        before: "load_vector<T, SIZE>(row + s * args.c)",
        after: "load_vector<T, SIZE>(row + (s > 0 ? s - 1 : 0) * args.c)",
        source: "pool.cu",
        test: CONVOLUTIONS_AND_POOLS,
    },
    Mutation {
        name: "pool drops a vector's last channel",
        file: "common/maximum.cuh",
        before: "for (int i = 0; i < SIZE; i++) value[i] = max_nan(",
        after: "for (int i = 0; i < SIZE - (SIZE > 1); i++) value[i] = max_nan(",
        source: "pool.cu",
        test: DROPOUT,
    },
    Mutation {
        name: "LRN drops a neighbour at the tower's last vector but one",
        file: "common/normalise.cuh",
        before: "after = place + SIZE < tower ?",
        after: "after = place + 2 * SIZE < tower ?",
        source: "lrn.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "LRN takes the neighbour's channels in reverse",
        file: "common/normalise.cuh",
        before: "value[VECTOR_REACH + SIZE + i] = to_float(after.element[i]);",
        after: "value[VECTOR_REACH + SIZE + i] = to_float(after.element[VECTOR_REACH - 1 - i]);",
        source: "lrn.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "pool after LRN off by one",
        file: "lrn_pool.cu",
        before: "from_corner = r * SIDE + s / 2 + s % 2 * EVEN_COLUMNS;",
        after: "from_corner = r * SIDE + s % 2 * EVEN_COLUMNS;",
        source: "lrn_pool.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "pool before LRN off by one",
        file: "lrn_pool.cu",
        before: "(tap / KERNEL * args.w + tap % KERNEL) * args.c",
        after: "(min(tap / KERNEL, 1) * args.w + tap % KERNEL) * args.c",
        source: "lrn_pool.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "LRN after a pool drops the neighbour at the tower's border",
        file: "lrn_pool.cu",
        before: "before = place > 0 ? neighbours(centre - VECTOR_REACH)",
        after: "before = place > SIZE ? neighbours(centre - VECTOR_REACH)",
        source: "lrn_pool.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "the block's last vector has no neighbour",
        file: "lrn_pool.cu",
        before: "constexpr int OUTPUTS = THREADS - 2;",
        after: "constexpr int OUTPUTS = THREADS - 1;",
        source: "lrn_pool.cu",
        test: LRN_AND_POOLS,
    },
    Mutation {
        name: "split begins a step late",
        file: CONV,
        before: "first_step = split * split_steps;",
        after: "first_step = split * split_steps + (split > 0);",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "split ends a step early",
        file: CONV,
        before: "k_end = min(gemm_k, (first_step + steps) * C::BLOCK_K);",
        after: "k_end = min(gemm_k, (first_step + steps) * C::BLOCK_K - (args.splits > 1));",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "splits share a partial sum",
        file: CONV,
        before: "float* partial = args.partial + size_t(split) * args.n",
        after: "float* partial = args.partial + size_t(split / 2) * args.n",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "a split is not added",
        file: "conv/reduce_splits.cu",
        before: "for (int split = 0; split < args.splits; split++)",
        after: "for (int split = 0; split < args.splits - (args.splits > 8); split++)",
        source: "conv/reduce_splits.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "reduction without ReLU",
        file: "conv/reduce_splits.cu",
        before: "args.relu ? max_nan(sum, 0.0f) : sum",
        after: "sum",
        source: "conv/reduce_splits.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "second turn of the output tile",
        file: CONV,
        before: "Out* target = output + size_t(block_m + turn + row) * pitch",
        after: "Out* target = output + size_t(block_m + row) * pitch",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "pool in a convolution off by one",
        file: CONV,
        before: "corner + (r * args.q + s) * PITCH",
        after: "corner + (r * args.q + min(s, 1)) * PITCH",
        source: CONV_F16,
        test: CONVOLUTIONS_AND_POOLS,
    },
    Mutation {
        name: "pooled output of the wrong group",
        file: CONV,
        before: "p_count * q_count * args.pitch + group * group_k + block_n;",
        after: "p_count * q_count * args.pitch + (args.groups - 1 - group) * group_k + block_n;",
        source: CONV_F16,
        test: CONVOLUTIONS_AND_POOLS,
    },
    Mutation {
        name: "pooled output of the wrong turn",
        file: CONV,
        before: "output + size_t(pixel) * args.pitch + turn + column",
        after: "output + size_t(pixel) * args.pitch + (C::BLOCK_N - TURN_COLUMNS - turn) + column",
        source: CONV_F16,
        test: CONVOLUTIONS_AND_POOLS,
    },
    Mutation {
        name: "pooled images overlap",
        file: CONV,
        before: "block_rows = C::KIND == POOLED ? pixels : C::BLOCK_M;",
        after: "block_rows = C::KIND == POOLED ? pixels - 1 : C::BLOCK_M;",
        source: CONV_F16,
        test: CONVOLUTIONS_AND_POOLS,
    },
    Mutation {
        name: "GEMV drops the last chunk",
        file: "fc/gemv.cu",
        before: "c < args.c; c += 32 * CHUNK",
        after: "c < args.c - (args.c > 64 ? CHUNK : 0); c += 32 * CHUNK",
        source: "fc/gemv.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "GEMV swaps the last two images",
        file: "fc/gemv.cu",
        before: "size_t(min(image, args.n - 1)) * args.c;",
        after: "size_t(args.n > 2 && image > 0 ? args.n - image : min(image, args.n - 1)) * args.c;",
        source: "fc/gemv.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "blocks of pixels without padding",
        file: "preprocess.cu",
        before: "block_row % args.hb * BLOCK - args.padding + row,",
        after: "block_row % args.hb * BLOCK + row,",
        source: "preprocess.cu",
        test: PIXELS,
    },
    Mutation {
        name: "the last pixels are copied in whole chunks",
        file: "preprocess.cu",
        before: "static_cast<int>(min(rest, 16ll))",
        after: "16",
        source: "preprocess.cu",
        test: PIXELS,
    },
    Mutation {
        name: "pixels are taken to begin with a chunk",
        file: "preprocess.cu",
        before: "&pixels[row][before + place * ROW];",
        after: "&pixels[row][place * ROW];",
        source: "preprocess.cu",
        test: PIXELS,
    },
    Mutation {
        name: "a row's last chunk is not copied",
        file: "preprocess.cu",
        before: "place * CHUNK < before + blocks * ROW",
        after: "place * CHUNK < blocks * ROW",
        source: "preprocess.cu",
        test: PIXELS,
    },
    // What matters beside another tower's channels alone.
    Mutation {
        name: "sums of splits without the other tower's channels between",
        file: "conv/reduce_splits.cu",
        before: "pixel * args.pitch + k",
        after: "pixel * args.k + k",
        source: "conv/reduce_splits.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "a GEMV without them",
        file: "fc/gemv.cu",
        before: "size_t(image) * args.pitch + k",
        after: "size_t(image) * args.k + k",
        source: "fc/gemv.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "a tile of sums without them",
        file: CONV,
        before: "group, args.pitch, true);\n    } else if constexpr",
        after: "group, args.k, true);\n    } else if constexpr",
        source: CONV_F16,
        test: OPERANDS,
    },
    Mutation {
        name: "pools without them",
        file: "pool.cu",
        before: "pixel * args.pitch + c",
        after: "pixel * args.c + c",
        source: "pool.cu",
        test: OPERANDS,
    },
    Mutation {
        name: "LRN of vectors takes the first tower's channels",
        file: "lrn.cu",
        before: "vectors) * SIZE, c = args.first + channel;",
        after: "vectors) * SIZE, c = channel;",
        source: "lrn.cu",
        test: TOWERS,
    },
    Mutation {
        name: "LRN before a pool ends its windows at the towers' border",
        file: "lrn_pool.cu",
        before: "(args.first + c) % args.tower",
        after: "c % args.tower",
        source: "lrn_pool.cu",
        test: TOWERS,
    },
];
