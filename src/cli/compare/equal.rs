//! Whether layouts give the same bits: what is measured after is then the same work.

use alexnet::{Error, Input, Model, Pixels, Result, Score};

use super::layout::Layout;

/// Runs `images` pictures through every layout, by the session and by the pipeline that are measured later, and compares
/// all logits with those of the first layout. Gives the number of logits of each that were compared.
///
/// # Errors
/// [`Error::DeviceLost`] naming the first logit that differs, and those of the device.
pub fn check(models: &[(Layout, Model)], images: usize, fill: impl Fn(&mut Pixels)) -> Result<usize> {
    let (mut by_session, mut by_pipeline) = (vec![], vec![]);
    for (layout, model) in models {
        let mut pixels = model.pixels(images)?;
        fill(&mut pixels);
        let mut session = model.session(images, &[])?;
        session.run(Input::Pixels(&pixels))?;
        by_session.push((*layout, session.logits()?.to_vec()));
        by_pipeline.push((*layout, through_pipeline(model, images, pixels)?));
    }
    let classes = models[0].1.network().classes();
    for logits in [&by_session, &by_pipeline] {
        check_bits(logits, classes)?;
    }
    Ok(2 * images * classes)
}

/// Logits in the order of the classes.
fn through_pipeline(model: &Model, images: usize, pixels: Pixels) -> Result<Vec<f32>> {
    let classes = model.network().classes();
    let mut pipeline = model.pipeline(images, classes, Score::Logit)?;
    pipeline.submit(pixels)?;
    let done = pipeline.collect()?.expect("a batch was submitted");
    let mut logits = vec![0.0; images * classes];
    for (scored, logits) in done.scored.iter().zip(logits.chunks_exact_mut(classes)) {
        for prediction in &scored.predictions {
            logits[prediction.index] = prediction.score;
        }
    }
    Ok(logits)
}

/// Compares each layout's logits, (N, `classes`), with those of the first.
fn check_bits(logits: &[(Layout, Vec<f32>)], classes: usize) -> Result<()> {
    let (baseline, expected) = &logits[0];
    for (layout, found) in &logits[1..] {
        assert_eq!(found.len(), expected.len(), "layouts of one network on the same pictures");
        let differs = |(_, (found, expected)): &(usize, (&f32, &f32))| found.to_bits() != expected.to_bits();
        let mut different = found.iter().zip(expected).enumerate().filter(differs);
        if let Some((index, (value, expected_value))) = different.next() {
            return Err(Error::DeviceLost(format!(
                "{} and {} disagree: logit of class {} of image {} is {value:e} and {expected_value:e}, {} of {} logits differ; \
                 nothing was measured. The device or this program is at fault: run it again, and report it if it stays so",
                layout.name(),
                baseline.name(),
                index % classes,
                index / classes,
                1 + different.count(),
                expected.len(),
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_one_logit_is_found() {
        let whole: Vec<f32> = (0..30).map(|index| index as f32 / 7.0).collect();
        let logits = |split: &[f32]| vec![(Layout::Single, whole.clone()), (Layout::TwoStream, split.to_vec())];
        check_bits(&logits(&whole), 10).unwrap();
        for place in [0, 13, 29] {
            let mut split = whole.clone();
            split[place] = f32::from_bits(split[place].to_bits() ^ 1);
            let error = check_bits(&logits(&split), 10).unwrap_err();
            assert_eq!(error.exit_code(), 7);
            let (text, value) = (error.to_string(), format!("is {:e} and {:e}", split[place], whole[place]));
            for part in ["two-stream and single", &format!("class {} of image {}", place % 10, place / 10), &value] {
                assert!(text.contains(part), "'{part}' is not in: {text}");
            }
        }
        // Zero and minus zero are equal as numbers.
        let mut split = whole.clone();
        split[0] = -0.0;
        check_bits(&logits(&split), 10).unwrap_err();
    }
}
