//! What activations and filters are on the device. Free of CUDA.

use std::borrow::Cow;

use half::f16;
use rayon::prelude::*;

use crate::model::Precision;
use crate::plan::{Plan, Step, StepKind};
use crate::{Error, Result};

/// Type of the activations and filters of a session. Biases and logits are float32 in every one, as are all sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32.
    F32,
    /// IEEE half precision.
    F16,
}

/// Elements that the rows of f16 filters are padded to a multiple of: 16 bytes, what one copy to shared memory takes.
const FILTER_ROW: usize = 8;

impl Element {
    /// The type that computing in `precision` stores.
    ///
    /// # Errors
    /// [`Error::Usage`] for a precision without kernels.
    pub fn of(precision: Precision) -> Result<Self> {
        match precision {
            Precision::Float32 => Ok(Element::F32),
            Precision::Float16 => Ok(Element::F16),
            Precision::Tf32 | Precision::Bfloat16 => Err(Error::Usage(format!(
                "this version has no kernels for {}; say --precision float32 or float16",
                precision.name()
            ))),
        }
    }

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
        }
    }

    /// Type of a step's output in a session of this type: logits leave the sums as they are.
    pub fn of_output(self, step: &Step) -> Element {
        let weighted = matches!(step.kind, StepKind::Conv { .. } | StepKind::Linear { .. });
        if step.logits && weighted { Element::F32 } else { self }
    }

    /// Bytes per image of each of the plan's buffers.
    pub fn buffer_bytes(self, plan: &Plan) -> Vec<usize> {
        let mut bytes: Vec<usize> = plan.buffers.iter().map(|elements| elements * self.bytes()).collect();
        for step in &plan.steps {
            let needed = step.output.len() * self.of_output(step).bytes();
            bytes[step.target] = bytes[step.target].max(needed);
        }
        bytes
    }

    /// Values as the device stores them; one beyond the type's range becomes an infinity.
    pub fn encode(self, values: &[f32]) -> Cow<'_, [u8]> {
        match self {
            Element::F32 => Cow::Borrowed(bytemuck::cast_slice(values)),
            Element::F16 => {
                let mut bytes = vec![0; 2 * values.len()];
                halve(values, &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }

    /// What the device stored, `bytes` being a whole number of elements, into `values`.
    pub fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        values.clear();
        let elements = bytes.chunks_exact(self.bytes());
        match self {
            Element::F32 => values.extend(elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Element::F16 => values.extend(elements.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
    }

    /// A filter, rows of `gemm_k` values, as the convolution kernels read it; `name` is the layer's. f16 rows are padded
    /// with zeros to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a finite value beyond f16's range.
    pub fn encode_filter<'a>(self, name: &str, filter: &'a [f32], gemm_k: usize) -> Result<Cow<'a, [u8]>> {
        if self == Element::F32 {
            return Ok(self.encode(filter));
        }
        if let Some(value) = filter.iter().find(|v| v.is_finite() && !f16::from_f32(**v).is_finite()) {
            return Err(Error::Usage(format!(
                "{name} has a weight of {value}, beyond float16's {}; say --precision float32",
                f16::MAX
            )));
        }
        let pitch = 2 * gemm_k.next_multiple_of(FILTER_ROW);
        let mut rows = vec![0; filter.len() / gemm_k * pitch];
        let filters = rows.par_chunks_exact_mut(pitch).zip(filter.par_chunks_exact(gemm_k));
        filters.for_each(|(row, values)| halve(values, row));
        Ok(Cow::Owned(rows))
    }
}

/// `values` as f16 from the start of `bytes` on.
fn halve(values: &[f32], bytes: &mut [u8]) {
    for (bytes, value) in bytes.chunks_exact_mut(2).zip(values) {
        bytes.copy_from_slice(&f16::from_f32(*value).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network, VARIANTS};

    #[test]
    fn filter_rows_are_padded_with_zeros() {
        let filter: Vec<f32> = (1..=6).map(|v| v as f32).collect();
        let rows = Element::F16.encode_filter("conv1", &filter, 3).unwrap();
        let mut values = vec![];
        Element::F16.decode(&rows, &mut values);
        assert_eq!(values, [1., 2., 3., 0., 0., 0., 0., 0., 4., 5., 6., 0., 0., 0., 0., 0.]);
        assert_eq!(Element::F32.encode_filter("conv1", &filter, 3).unwrap().len(), 24);
    }

    #[test]
    fn a_weight_beyond_f16_is_an_error_and_one_that_is_infinite_stays() {
        let error = Element::F16.encode_filter("conv2", &[1.0, -65520.0], 2).unwrap_err().to_string();
        assert!(error.contains("conv2") && error.contains("-65520"), "{error}");
        Element::F16.encode_filter("conv2", &[65519.0, f32::INFINITY], 2).unwrap();
    }

    #[test]
    fn the_logits_buffer_has_room_for_float32() {
        for (classes, floats) in [(10, 64 * 55 * 55 / 2), (200_000, 200_000)] {
            let network = Network::published(&VARIANTS[0], classes).unwrap();
            let plan = Plan::new(&network, 1, &[]).unwrap();
            let bytes = Element::F16.buffer_bytes(&plan);
            assert_eq!(*bytes.iter().max().unwrap(), 4 * floats, "{classes} classes");
            assert!(bytes[plan.logits().target] >= 4 * classes);
        }
    }
}
