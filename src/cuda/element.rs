//! What activations and filters are on the device. Free of CUDA.

use std::borrow::Cow;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::options::Precision;
use crate::plan::{Step, StepKind};
use crate::{Error, Result};

/// Type of the activations and filters of a session. Biases and logits are float32 in every one, as are all
/// sums; cuBLASLt alone takes biases that are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32, also of what is computed in tf32.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// Bytes that the rows of filters for tensor cores are padded to a multiple of: what one copy to shared memory takes.
const FILTER_ROW: usize = 16;

impl Element {
    /// The type that computing in `precision` stores.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::Float32 | Precision::Tf32 => Element::F32,
            Precision::Float16 => Element::F16,
            Precision::Bfloat16 => Element::Bf16,
        }
    }

    /// Size in bytes: [`Precision::bytes`].
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    /// Type of a step's output in a session of this type: logits leave the sums as they are.
    pub fn of_output(self, step: &Step) -> Element {
        let weighted = matches!(step.kind, StepKind::Conv { .. } | StepKind::Linear { .. });
        if step.logits && weighted { Element::F32 } else { self }
    }

    /// Values as the device stores them; one beyond the type's range becomes an infinity.
    pub fn encode(self, values: &[f32]) -> Cow<'_, [u8]> {
        if self == Element::F32 {
            return Cow::Borrowed(bytemuck::cast_slice(values));
        }
        let mut bytes = vec![0; self.bytes() * values.len()];
        self.encode_into(values, &mut bytes);
        Cow::Owned(bytes)
    }

    /// `values` from the start of `bytes` on.
    fn encode_into(self, values: &[f32], bytes: &mut [u8]) {
        let elements = bytes.chunks_exact_mut(self.bytes()).zip(values);
        match self {
            Element::F32 => elements.for_each(|(bytes, value)| bytes.copy_from_slice(&value.to_le_bytes())),
            Element::F16 => elements.for_each(|(bytes, v)| bytes.copy_from_slice(&f16::from_f32(*v).to_le_bytes())),
            Element::Bf16 => elements.for_each(|(bytes, v)| bytes.copy_from_slice(&bf16::from_f32(*v).to_le_bytes())),
        }
    }

    /// What the device stored, `bytes` being a whole number of elements, into `values`.
    pub fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        values.clear();
        let elements = bytes.chunks_exact(self.bytes());
        match self {
            Element::F32 => values.extend(elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Element::F16 => values.extend(elements.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            Element::Bf16 => values.extend(elements.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
    }
}

/// A filter, rows of `gemm_k` values, as the kernels of `precision` read it; `name` is the layer's. For tensor cores rows are
/// padded with zeros to 16 bytes; for tf32 values are rounded to it.
///
/// # Errors
/// [`Error::Usage`] for a finite value beyond the type's range.
pub fn encode_filter<'a>(precision: Precision, name: &str, filter: &'a [f32], gemm_k: usize) -> Result<Cow<'a, [u8]>> {
    let element = Element::of(precision);
    let stored = |value: f32| match precision {
        Precision::Float32 => value,
        Precision::Tf32 => round_to_tf32(value),
        Precision::Float16 => f16::from_f32(value).to_f32(),
        Precision::Bfloat16 => bf16::from_f32(value).to_f32(),
    };
    if let Some(value) = filter.iter().find(|v| v.is_finite() && !stored(**v).is_finite()) {
        return Err(Error::Usage(format!(
            "{name} has a weight of {value}, beyond the range of {}; say --precision float32",
            precision.name()
        )));
    }
    if precision == Precision::Float32 {
        return Ok(element.encode(filter));
    }
    let pitch = filter_pitch(precision, gemm_k);
    let mut rows = vec![0; filter.len() / gemm_k * pitch];
    let filters = rows.par_chunks_exact_mut(pitch).zip(filter.par_chunks_exact(gemm_k));
    filters.for_each_init(Vec::new, |values, (row, filter)| {
        values.clear();
        values.extend(filter.iter().map(|v| stored(*v)));
        element.encode_into(values, row);
    });
    Ok(Cow::Owned(rows))
}

/// Bytes from one row of a filter to the next, as [`encode_filter`] lays it out.
pub(super) fn filter_pitch(precision: Precision, gemm_k: usize) -> usize {
    let bytes = Element::of(precision).bytes() * gemm_k;
    if precision == Precision::Float32 { bytes } else { bytes.next_multiple_of(FILTER_ROW) }
}

/// To ten bits of mantissa, ties away from zero, as `cvt.rna.tf32.f32`.
pub fn round_to_tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_rows_are_padded_with_zeros() {
        let filter: Vec<f32> = (1..=6).map(|v| v as f32).collect();
        let rows = encode_filter(Precision::Float16, "conv1", &filter, 3).unwrap();
        let mut values = vec![];
        Element::F16.decode(&rows, &mut values);
        assert_eq!(values, [1., 2., 3., 0., 0., 0., 0., 0., 4., 5., 6., 0., 0., 0., 0., 0.]);
        let rows = encode_filter(Precision::Tf32, "conv1", &filter, 3).unwrap();
        Element::F32.decode(&rows, &mut values);
        assert_eq!(values, [1., 2., 3., 0., 4., 5., 6., 0.]);
        assert_eq!(encode_filter(Precision::Float32, "conv1", &filter, 3).unwrap().len(), 24);
    }

    #[test]
    fn a_weight_beyond_f16_is_an_error_and_one_that_is_infinite_stays() {
        let error = encode_filter(Precision::Float16, "conv2", &[1.0, -65520.0], 2).unwrap_err().to_string();
        assert!(error.contains("conv2") && error.contains("-65520"), "{error}");
        encode_filter(Precision::Float16, "conv2", &[65519.0, f32::INFINITY], 2).unwrap();
    }

    #[test]
    fn tf32_keeps_ten_bits() {
        let one = 1.0f32;
        let ulp = 2f32.powi(-10);
        for (value, rounded) in [
            (one, one),
            (one + ulp / 2.0, one + ulp),
            (-one - ulp / 2.0, -one - ulp),
            ((one + ulp / 2.0).next_down(), one),
            (f32::MAX, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(round_to_tf32(value), rounded, "{value}");
        }
        assert!(round_to_tf32(f32::NAN).is_nan());
    }
}
