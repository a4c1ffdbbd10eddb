//! `mma` and `ldmatrix` as nvcc compiles them, against products written with the matrices' indices alone.

use cuemu::FaultKind;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const PTX: &str = include_str!("ptx/tensor.ptx");
const SEED: u64 = 808;

/// The format of the factors.
#[derive(Clone, Copy, Debug)]
enum Element {
    Half,
    Bfloat,
    Tensor,
}

impl Element {
    /// The nearest value of the format; of tf32 the one further from zero in a tie.
    fn nearest(self, value: f32) -> f32 {
        match self {
            Element::Half => f16::from_f32(value).to_f32(),
            Element::Bfloat => bf16::from_f32(value).to_f32(),
            Element::Tensor if !value.is_finite() => value,
            Element::Tensor => {
                let unit = f32::from_bits(value.to_bits() & 0xFF << 23).max(f32::MIN_POSITIVE) / 1024.0;
                (value / unit).round() * unit
            }
        }
    }

    /// Copies values to the device; those of tf32 get `tail` for the bits that do not belong to them.
    fn put(self, device: &Device, values: &[f32], tail: u32) -> u64 {
        let values = values.iter();
        match self {
            Element::Half => device.put(&values.map(|value| f16::from_f32(*value).to_bits()).collect::<Vec<_>>()),
            Element::Bfloat => device.put(&values.map(|value| bf16::from_f32(*value).to_bits()).collect::<Vec<_>>()),
            Element::Tensor => device.put(&values.map(|value| value.to_bits() | tail).collect::<Vec<_>>()),
        }
    }
}

/// A kernel that multiplies 16 by `depth` and `depth` by 8 matrices, one pair in each block.
#[derive(Clone, Copy, Debug)]
struct Product {
    name: &'static str,
    element: Element,
    depth: usize,
    /// f32 accumulators, or f16.
    single: bool,
    /// Whether the kernel is told the depth.
    any_depth: bool,
}

const PRODUCTS: [Product; 8] = {
    use Element::{Bfloat, Half, Tensor};
    [
        Product { name: "product_k16", element: Half, depth: 16, single: true, any_depth: false },
        Product { name: "product_k8", element: Half, depth: 8, single: true, any_depth: false },
        Product { name: "product_half", element: Half, depth: 16, single: false, any_depth: true },
        Product { name: "product_half", element: Half, depth: 8, single: false, any_depth: true },
        Product { name: "product_bfloat", element: Bfloat, depth: 16, single: true, any_depth: true },
        Product { name: "product_bfloat", element: Bfloat, depth: 8, single: true, any_depth: true },
        Product { name: "product_tensor", element: Tensor, depth: 8, single: true, any_depth: true },
        Product { name: "product_tensor", element: Tensor, depth: 4, single: true, any_depth: true },
    ]
};

/// Bits of d = a b + c for each matrix of a batch, all row by row. An element of `c` must fit the accumulator.
fn run(product: Product, a: &[f32], b: &[f32], c: &[f32]) -> Vec<u32> {
    let Product { name, element, depth, single, any_depth } = product;
    let device = Device::new(PTX);
    let batch = [(a.len() / (16 * depth)) as u32, 1, 1];
    // The instruction cuts the tail off: rounded, it would matter.
    let [a, b] = [a, b].map(|values| element.put(&device, values, 0x1FFF));
    let count = c.len();
    let (c, d) = match single {
        true => (device.put(c), device.room::<f32>(count)),
        false => (Element::Half.put(&device, c, 0), device.room::<u16>(count)),
    };
    let mut args = args![a, b, c, d];
    if any_depth {
        args.extend(args![depth as u32]);
    }
    device.run(name, batch, [32, 1, 1], 0, args).unwrap();
    if single { device.get(d, count) } else { device.get::<u16>(d, count).into_iter().map(u32::from).collect() }
}

/// For each element of d: c and the products, in f64, where they are exact.
fn terms<'a>(depth: usize, a: &'a [f32], b: &'a [f32], c: &'a [f32]) -> impl Iterator<Item = Vec<f64>> + 'a {
    c.iter().enumerate().map(move |(at, c)| {
        let (matrix, i, j) = (at / 128, at % 128 / 8, at % 8);
        let product =
            |k: usize| f64::from(a[(matrix * 16 + i) * depth + k]) * f64::from(b[(matrix * depth + k) * 8 + j]);
        std::iter::once(f64::from(*c)).chain((0..depth).map(product)).collect()
    })
}

/// Random matrices for a batch of 50, with values that their formats have.
fn random(
    product: Product,
    rng: &mut ChaCha8Rng,
    one: impl Fn(&mut ChaCha8Rng) -> f32,
    sum: impl Fn(&mut ChaCha8Rng) -> f32,
) -> [Vec<f32>; 3] {
    let mut factor = |count| (0..50 * count).map(|_| product.element.nearest(one(rng))).collect();
    let (a, b) = (factor(16 * product.depth), factor(8 * product.depth));
    let fit = |value| if product.single { value } else { Element::Half.nearest(value) };
    [a, b, (0..50 * 128).map(|_| fit(sum(rng))).collect()]
}

#[test]
fn every_element_has_its_place() {
    for product in PRODUCTS {
        let depth = product.depth;
        let places: Vec<[usize; 3]> = (0..16 * depth * 8).map(|n| [n / 8 / depth, n / 8 % depth, n % 8]).collect();
        let (mut a, mut b) = (vec![0.0; places.len() * 16 * depth], vec![0.0; places.len() * depth * 8]);
        for (n, [i, k, j]) in places.iter().enumerate() {
            a[(n * 16 + i) * depth + k] = 1.0;
            b[(n * depth + k) * 8 + j] = (n % 250 + 1) as f32;
        }
        let found = run(product, &a, &b, &vec![0.0; places.len() * 128]);
        for (n, [i, _, j]) in places.iter().enumerate() {
            let mut expected = [0; 128];
            let value = (n % 250 + 1) as f32;
            expected[i * 8 + j] = if product.single { value.to_bits() } else { f16::from_f32(value).to_bits().into() };
            assert_eq!(found[n * 128..][..128], expected, "{product:?}, {:?}", places[n]);
        }
    }
}

/// Every partial sum is a whole number that f32 holds; f16 results are rounded once.
#[test]
fn whole_numbers_are_exact() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    for product in PRODUCTS {
        let depth = product.depth;
        let whole = |rng: &mut ChaCha8Rng| rng.random_range(-150i32..=150) as f32;
        let [a, b, c] = random(product, rng, whole, |rng| rng.random_range(-2048i32..=2048) as f32);
        let found = run(product, &a, &b, &c);
        for (at, (found, terms)) in found.into_iter().zip(terms(depth, &a, &b, &c)).enumerate() {
            let sum: f64 = terms.iter().sum();
            let expected =
                if product.single { (sum as f32).to_bits() } else { f16::from_f32(sum as f32).to_bits().into() };
            assert_eq!(found, expected, "{product:?}, {at}, seed {SEED}");
        }
    }
}

#[test]
fn values_of_any_kind() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    // Subnormal f16 and f32 among them.
    let edges = [0.0, -0.0, 6e-8, -6e-8, 3e-5, 1e-40, -1e-40, 1.0, -1.5, 300.0, 65504.0, -65504.0];
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for product in PRODUCTS {
        let depth = product.depth;
        for kind in 0..4 {
            let one = |rng: &mut ChaCha8Rng| match kind {
                0 => rng.random_range(-2.0..2.0),
                1 => [0.0, -0.0][rng.random_range(0..2)],
                2 => edges[rng.random_range(0..edges.len())],
                _ if rng.random_range(0..40) == 0 => special[rng.random_range(0..3)],
                _ => edges[rng.random_range(0..edges.len())],
            };
            let [a, b, c] = random(product, rng, one, one);
            let found = run(product, &a, &b, &c);
            for (at, (found, terms)) in found.into_iter().zip(terms(depth, &a, &b, &c)).enumerate() {
                let (sum, size) = (terms.iter().sum::<f64>(), terms.iter().map(|term| term.abs()).sum::<f64>());
                let value = if product.single { f32::from_bits(found) } else { f16::from_bits(found as u16).to_f32() };
                let ok = if sum.is_nan() {
                    found == if product.single { 0x7FFF_FFFF } else { 0x7FFF }
                } else if size == 0.0 {
                    f64::from(value).to_bits() == sum.to_bits()
                } else {
                    // The terms' roundings in f32, then half a unit of the result in f16, and its overflow.
                    let mut bound = (size * 2f64.powi(-24) + 2f64.powi(-149)) * depth as f64;
                    if !product.single {
                        bound += sum.abs() * 2f64.powi(-11) + 2f64.powi(-25);
                    }
                    let overflow =
                        !product.single && sum.abs() + bound >= 65520.0 && value == f32::INFINITY.copysign(sum as f32);
                    overflow || f64::from(value) == sum || (f64::from(value) - sum).abs() <= bound
                };
                assert!(ok, "{product:?}, kind {kind}, {at}: {value:e} for {sum:e}, seed {SEED}");
            }
        }
    }
}

/// Every form of `ldmatrix`: rows in another order, addresses that do not count out of bounds.
#[test]
fn matrices_are_spread_over_the_lanes() {
    for (count, transposed) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let trans = if transposed { ".trans" } else { "" };
        let list = ["%r4", "%r4, %r5", "", "%r4, %r5, %r6, %r7"][count - 1];
        let stores: String =
            (0..count).map(|m| format!("    st.global.u32 [%d2+{}], %r{};\n", m * 128, m + 4)).collect();
        let device = Device::new(&module(&format!(
            ".visible .entry run(.param .u64 in, .param .u64 out)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %d<5>;
    .shared .align 16 .b8 tile[512];
    ld.param.u64 %d1, [in];
    ld.param.u64 %d2, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d3, %r1, 16;
    add.s64 %d1, %d1, %d3;
    ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%d1];
    shl.b32 %r2, %r1, 4;
    mov.u32 %r3, tile;
    add.s32 %r3, %r3, %r2;
    st.shared.v4.u32 [%r3], {{%r4, %r5, %r6, %r7}};
    bar.sync 0;
    xor.b32 %r3, %r3, 80;
    setp.lt.u32 %p1, %r1, {};
    @!%p1 mov.u32 %r3, 0xFFFFFFF1;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%r3];
    shr.u64 %d3, %d3, 2;
    add.s64 %d2, %d2, %d3;
{stores}    ret;
}}",
            8 * count
        )));
        let output = device.room::<u32>(32 * count);
        let input = device.put(&(0..256).collect::<Vec<u16>>());
        device.run("run", [1; 3], [32, 1, 1], 0, args![input, output]).unwrap();
        for (at, found) in device.get::<u32>(output, 32 * count).into_iter().enumerate() {
            let (matrix, lane) = (at as u32 / 32, at as u32 % 32);
            let element = |half| {
                let (row, column) = (lane / 4, lane % 4 * 2 + half);
                let (row, column) = if transposed { (column, row) } else { (row, column) };
                matrix * 64 + (row ^ 5) * 8 + column
            };
            assert_eq!(found, element(0) | element(1) << 16, "x{count}{trans}, matrix {matrix}, lane {lane}");
        }
    }
}

/// nvcc makes generic addresses of shared memory where it does not know which array a pointer is in.
#[test]
fn buffers_in_turn() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(PTX);
    let rounds = 11;
    let input: Vec<u32> = (0..rounds * 128).map(|_| rng.random()).collect();
    let output = device.room::<u32>(32);
    let args = args![device.put(&input), output, rounds as u32];
    device.run("buffers_in_turn", [1; 3], [32, 1, 1], 1024, args).unwrap();
    // A matrix is 32 words, a lane's word is that of its number.
    let expected = |lane: usize| input.iter().skip(lane).step_by(32).fold(0, |sum: u32, word| sum.wrapping_add(*word));
    assert_eq!(device.get::<u32>(output, 32), (0..32).map(expected).collect::<Vec<_>>(), "seed {SEED}");
}

#[test]
fn matrix_product() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(PTX);
    let kernels =
        [("tensor_gemm", Element::Half), ("tensor_gemm_bf16", Element::Bfloat), ("tensor_gemm_tf32", Element::Tensor)];
    let sizes = [(64, 64, 32), (1, 1, 1), (70, 33, 45), (130, 100, 72), (63, 129, 8)];
    for ((name, element), (m, n, k)) in kernels.into_iter().flat_map(|kernel| sizes.map(|size| (kernel, size))) {
        for whole in [true, false] {
            let one = |rng: &mut ChaCha8Rng| match whole {
                true => rng.random_range(-9i32..=9) as f32,
                false => rng.random_range(-2.0..2.0),
            };
            let mut values = |count| (0..count).map(|_| one(rng)).collect::<Vec<f32>>();
            let (a, b) = (values(m * k), values(k * n));
            let [x, y] = [&a, &b].map(|values| element.put(&device, values, 0));
            let output = device.room::<f32>(m * n);
            let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
            let args = args![x, y, output, m as u32, n as u32, k as u32];
            device.run(name, grid, [128, 1, 1], 0, args).unwrap();
            for (at, found) in device.get::<f32>(output, m * n).into_iter().enumerate() {
                let factors = (0..k).map(|d| [a[at / n * k + d], b[d * n + at % n]]);
                let products =
                    factors.map(|pair| pair.map(|value| f64::from(element.nearest(value)))).map(|[a, b]| a * b);
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let bound = if whole { 0.0 } else { size * k as f64 * 2f64.powi(-24) };
                let error = (f64::from(found) - sum).abs();
                assert!(error <= bound, "{name} {m} {n} {k}, {at}: {found} for {sum}, seed {SEED}");
            }
        }
    }
}

#[test]
fn planted_bugs() {
    let device = Device::new(PTX);
    let output = device.room::<u32>(32);
    let run = |which: u32, threads| device.run("tensor_bug", [1; 3], [threads, 1, 1], 0, args![output, which]);
    run(0, 32).unwrap();
    for (which, threads, kind, text, place) in [
        (1, 32, FaultKind::UninitialisedShared, "ldmatrix", Some((9, 9 * 16))),
        (2, 32, FaultKind::Misaligned, "ldmatrix", Some((5, 5 * 16 + 8))),
        (3, 32, FaultKind::OutOfBounds, "ldmatrix", Some((31, 512))),
        (4, 32, FaultKind::DivergentMatrix, "mma.sync", None),
        (5, 32, FaultKind::DivergentMatrix, "ldmatrix", None),
        (6, 32, FaultKind::DivergentMatrix, "mma.sync", None),
        (0, 31, FaultKind::DivergentMatrix, "ldmatrix", None),
    ] {
        let fault = run(which, threads).expect_err("the bug is found");
        assert_eq!(fault.kind, kind, "{which}: {fault}");
        assert!(fault.instruction.contains(text), "{which}: {fault}");
        if let Some((thread, address)) = place {
            assert_eq!((fault.thread, fault.address), ([thread, 0, 0], Some(address)), "{fault}");
        }
    }
}

/// A part of the warp takes a way further down in the code and comes back; a guard keeps lanes out.
#[test]
fn lanes_meet_at_a_matrix_instruction() {
    let half = "m16n8k8.row.col.f16.f16.f16.f16 {%r3, %r4}, {%r2, %r2}, {%r2}, {0, 0}";
    let bfloat = "m16n8k8.row.col.f32.bf16.bf16.f32 {%r3, %r4, %r5, %r6}, {%r2, %r2}, {%r2}, {0, 0, 0, 0}";
    let tensor = "m16n8k4.row.col.f32.tf32.tf32.f32 {%r3, %r4, %r5, %r6}, {%r2, %r2}, {%r2}, {0, 0, 0, 0}";
    let text = |guard: &str, form: &str| {
        module(&format!(
            ".visible .entry run(.param .u64 out)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<7>;
    .reg .b64 %d<3>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d2, %r1, 4;
    add.s64 %d1, %d1, %d2;
    setp.gt.u32 %p1, %r1, 20;
    mov.u32 %r2, 0x3C003C00;
    @%p1 bra $far;
$meet:
    {guard} mma.sync.aligned.{form};
    st.global.u32 [%d1], %r3;
    ret;
$far:
    mov.u32 %r2, 0x40004000;
    bra $meet;
}}"
        ))
    };
    let device = Device::new(&text("", half));
    let output = device.room::<u32>(32);
    device.run("run", [1; 3], [32, 1, 1], 0, args![output]).unwrap();
    let fill = |lane: usize| if lane > 20 { 2.0 } else { 1.0 };
    let expected = |lane: usize| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        let sum = |column: usize| (0..4).map(|i| 2.0 * fill(4 * row + i) * fill(4 * column + i)).sum();
        u32::from(f16::from_f32(sum(column)).to_bits()) | u32::from(f16::from_f32(sum(column + 1)).to_bits()) << 16
    };
    assert_eq!(device.get::<u32>(output, 32), (0..32).map(expected).collect::<Vec<_>>());
    let guards = [
        ("@%p1", ["only lanes 21-31 of the warp are left", ""]),
        ("@!%p1", ["lanes 0-20 wait here", "lanes 21-31, which exited"]),
    ];
    for ((guard, details), form) in
        guards.into_iter().flat_map(|guard| [half, bfloat, tensor].map(|form| (guard, form)))
    {
        let device = Device::new(&text(guard, form));
        let output = device.room::<u32>(32);
        let fault = device.run("run", [1; 3], [32, 1, 1], 0, args![output]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::DivergentMatrix, "{fault}");
        assert!(details.iter().all(|detail| fault.detail.contains(detail)), "{fault}");
    }
}
