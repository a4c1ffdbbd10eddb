//! Whether layouts give the same bits: what is measured after is then the same work.

use alexnet::{Error, Input, Model, Pipeline, Pixels, Result, Score};

use super::layout::Layout;

/// Runs `images` pictures through every layout, by the session and by every place of the pipeline that are measured later, and
/// compares all logits with those of the first layout. Gives the number of logits of each that were compared, those of the
/// pipeline's places once.
///
/// # Errors
/// [`Error::DeviceLost`] naming the first logit that differs, and those of the device.
pub fn check(models: &[(Layout, Model)], images: usize, fill: impl Fn(&mut Pixels)) -> Result<usize> {
    let classes = models[0].1.network().classes();
    let (mut by_session, mut by_pipeline) = (vec![], vec![]);
    for (layout, model) in models {
        let filled = || {
            let mut pixels = model.pixels(images)?;
            fill(&mut pixels);
            Ok(pixels)
        };
        let mut session = model.session(images, &[])?;
        session.run(Input::Pixels(&filled()?))?;
        by_session.push((*layout, session.logits()?.to_vec()));
        let mut pipeline = model.pipeline(images, classes, Score::Logit)?;
        let places = through_pipeline(&mut *pipeline, classes, filled)?;
        by_pipeline.extend(places.into_iter().map(|logits| (*layout, logits)));
    }
    for logits in [&by_session, &by_pipeline] {
        check_bits(logits, classes)?;
    }
    Ok(2 * images * classes)
}

/// Logits in the order of the classes, of a batch in each of the pipeline's places: each device has some, and a GPU runs the
/// first one kernel by kernel, the second one as the graph that is measured.
fn through_pipeline(
    pipeline: &mut dyn Pipeline,
    classes: usize,
    filled: impl Fn() -> Result<Pixels>,
) -> Result<Vec<Vec<f32>>> {
    for _ in 0..pipeline.depth() {
        pipeline.submit(filled()?)?;
    }
    let mut places = vec![];
    while let Some(done) = pipeline.collect()? {
        let mut logits = vec![0.0; done.scored.len() * classes];
        for (scored, logits) in done.scored.iter().zip(logits.chunks_exact_mut(classes)) {
            for prediction in &scored.predictions {
                logits[prediction.index] = prediction.score;
            }
        }
        places.push(logits);
    }
    Ok(places)
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
                 nothing was measured. GPUs of different kinds agree with --deterministic alone; else the device or this program is \
                 at fault: run it again, and report it if it stays so",
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
    use std::collections::VecDeque;

    use alexnet::{Done, Precision, Prediction, Scored};

    use super::*;

    /// Two devices, of which the second one gives every class another logit.
    #[derive(Default)]
    struct Unlike {
        submitted: usize,
        under_way: VecDeque<Pixels>,
    }

    impl Pipeline for Unlike {
        fn depth(&self) -> usize {
            2
        }

        fn submit(&mut self, pixels: Pixels) -> Result<()> {
            self.submitted += 1;
            self.under_way.push_back(pixels);
            Ok(())
        }

        fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
            self.submit(pixels)
        }

        fn collect(&mut self) -> Result<Option<Done>> {
            let Some(pixels) = self.under_way.pop_front() else { return Ok(None) };
            let score = if self.under_way.is_empty() { 2.0 } else { 1.0 };
            let predictions = [1, 0].map(|index| Prediction { index, score: score + index as f32 }).to_vec();
            let scored = vec![Scored { predictions, precision: Precision::Float32, finite: true }];
            Ok(Some(Done { pixels, scored, times: None }))
        }

        fn time(&mut self) -> Result<()> {
            Ok(())
        }

        fn abandon(&mut self) -> Vec<Pixels> {
            self.under_way.drain(..).collect()
        }
    }

    #[test]
    fn every_place_of_a_pipeline_is_compared() {
        let mut pipeline = Unlike::default();
        let places = through_pipeline(&mut pipeline, 2, || Ok(Pixels::zeroed(3).unwrap())).unwrap();
        assert_eq!((pipeline.submitted, &places[..]), (2, &[vec![1.0, 2.0], vec![2.0, 3.0]][..]));
        let places: Vec<_> = places.into_iter().map(|logits| (Layout::DataParallel, logits)).collect();
        check_bits(&places, 2).unwrap_err();
    }

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
