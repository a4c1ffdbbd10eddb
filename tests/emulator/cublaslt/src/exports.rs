//! The exported functions, under cuBLASLt's names.

use crate::abi::{In, Out, Outcome, Status, guard};
use crate::descriptors::{self, Layout, Name, Object, Operation, Preference};
use crate::driver;
use crate::problem::{Algorithm, AlgorithmData, Problem};
use crate::product::Product;

/// Bytes that a workspace is aligned to.
const WORKSPACE_ALIGNMENT: u64 = 256;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
struct Heuristic {
    algorithm: AlgorithmData,
    workspace: usize,
    status: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// Defines exported functions: C ABI, the exact name, a body that may use `?`.
macro_rules! exports {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        extern "C" fn $name($($arg: $type),*) -> u32 {
            guard(move || $body)
        }
    )*};
}

fn handle(name: Name) -> Outcome {
    descriptors::with(name, |object| match object {
        Object::Handle => Ok(()),
        _ => Err(Status::INVALID_VALUE),
    })
}

fn problem(operation: Name, layouts: [Name; 4]) -> Outcome<Problem> {
    let [a, b, c, d] = layouts.map(descriptors::layout);
    Problem::new(&descriptors::operation(operation)?, [a?, b?, c?, d?])
}

/// What a product refuses that no heuristic has seen: pointers and workspace.
fn check(product: &Product, layouts: [Layout; 4], algorithm: &Algorithm) -> Outcome {
    let (workspace, bytes) = product.workspace;
    let [.., c, d] = product.addresses;
    let uses_c = product.beta != 0.0;
    let aligned = |i: usize| {
        let address = product.addresses[i];
        address != 0 && address.is_multiple_of(u64::from(algorithm.alignment[i].max(1)))
    };
    let fits = (bytes as u64) >= algorithm.workspace
        && (bytes == 0 || workspace != 0 && workspace.is_multiple_of(WORKSPACE_ALIGNMENT))
        && [0, 1, 3].into_iter().chain(uses_c.then_some(2)).all(aligned)
        && product.problem.bias != Some(0)
        // In place only with one and the same layout.
        && (!uses_c || c != d || layouts[2] == layouts[3]);
    if fits { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

/// 10000 * major + 100 * minor, of CUDA 13.0 unless CUEMU_CUBLASLT_VERSION says otherwise.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
extern "C" fn cublasLtGetVersion() -> usize {
    std::env::var("CUEMU_CUBLASLT_VERSION").ok().and_then(|version| version.parse().ok()).unwrap_or(130_000)
}

exports! {
    fn cublasLtCreate(name: Out<Name>) {
        driver::check()?;
        name.set(0, descriptors::add(Object::Handle))
    }

    fn cublasLtDestroy(name: Name) {
        descriptors::remove(name, &Object::Handle)
    }

    fn cublasLtMatmulDescCreate(name: Out<Name>, compute: u32, scale: u32) {
        name.set(0, descriptors::add(Object::Operation(Operation::new(compute, scale))))
    }

    fn cublasLtMatmulDescSetAttribute(name: Name, attribute: u32, value: In, size: usize) {
        descriptors::with(name, |object| match object {
            Object::Operation(operation) => operation.set(attribute, value, size),
            _ => Err(Status::INVALID_VALUE),
        })
    }

    fn cublasLtMatmulDescDestroy(name: Name) {
        descriptors::remove(name, &Object::Operation(Operation::new(0, 0)))
    }

    fn cublasLtMatrixLayoutCreate(name: Out<Name>, kind: u32, rows: u64, columns: u64, step: i64) {
        name.set(0, descriptors::add(Object::Layout(Layout { kind, order: 0, rows, columns, step, batch: 1 })))
    }

    fn cublasLtMatrixLayoutSetAttribute(name: Name, attribute: u32, value: In, size: usize) {
        descriptors::with(name, |object| match object {
            Object::Layout(layout) => layout.set(attribute, value, size),
            _ => Err(Status::INVALID_VALUE),
        })
    }

    fn cublasLtMatrixLayoutDestroy(name: Name) {
        let any = Layout { kind: 0, order: 0, rows: 0, columns: 0, step: 0, batch: 1 };
        descriptors::remove(name, &Object::Layout(any))
    }

    fn cublasLtMatmulPreferenceCreate(name: Out<Name>) {
        name.set(0, descriptors::add(Object::Preference(Preference::DEFAULT)))
    }

    fn cublasLtMatmulPreferenceSetAttribute(name: Name, attribute: u32, value: In, size: usize) {
        descriptors::with(name, |object| match object {
            Object::Preference(preference) => preference.set(attribute, value, size),
            _ => Err(Status::INVALID_VALUE),
        })
    }

    fn cublasLtMatmulPreferenceDestroy(name: Name) {
        descriptors::remove(name, &Object::Preference(Preference::DEFAULT))
    }

    fn cublasLtMatmulAlgoGetHeuristic(
        lt: Name,
        operation: Name,
        a: Name,
        b: Name,
        c: Name,
        d: Name,
        preference: Name,
        requested: i32,
        results: Out<Heuristic>,
        found: Out<i32>,
    ) {
        found.set(0, 0)?;
        handle(lt)?;
        let problem = problem(operation, [a, b, c, d])?;
        let requested = usize::try_from(requested).ok().filter(|requested| *requested > 0);
        let algorithms = problem.algorithms(&descriptors::preference(preference)?);
        let mut count = 0;
        for (i, algorithm) in algorithms.iter().take(requested.ok_or(Status::INVALID_VALUE)?).enumerate() {
            let (algorithm, workspace) = (algorithm.data(), algorithm.workspace as usize);
            results.set(i, Heuristic { algorithm, workspace, status: 0, waves: 1.0, reserved: [0; 4] })?;
            count += 1;
        }
        found.set(0, count)
    }

    fn cublasLtMatmul(
        lt: Name,
        operation: Name,
        alpha: In,
        a: u64,
        a_layout: Name,
        b: u64,
        b_layout: Name,
        beta: In,
        c: u64,
        c_layout: Name,
        d: u64,
        d_layout: Name,
        algorithm: In,
        workspace: u64,
        workspace_bytes: usize,
        stream: usize,
    ) {
        handle(lt)?;
        let names = [a_layout, b_layout, c_layout, d_layout];
        let problem = problem(operation, names)?;
        let [layout_a, layout_b, layout_c, layout_d] = names.map(descriptors::layout);
        let algorithm = match algorithm.is_null() {
            true => Algorithm { workspace: 0, in_place: false, alignment: [1; 4] },
            false => Algorithm::read(algorithm.get()?)?,
        };
        let (alpha, beta) = (alpha.get()?, beta.get()?);
        let addresses = [a, b, c, d];
        let workspace = (workspace, workspace_bytes);
        let product = Product { problem, alpha, beta, addresses, workspace, in_place: algorithm.in_place };
        check(&product, [layout_a?, layout_b?, layout_c?, layout_d?], &algorithm)?;
        driver::enqueue(stream, Box::new(move |memory| product.run(memory)))
    }
}
