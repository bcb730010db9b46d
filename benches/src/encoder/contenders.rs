//! Who takes part in a case, and what its rows are.

use anyhow::anyhow;

use super::{Method, in_process::InProcess, over_grpc::OverGrpc};
use crate::{
    interleave::{Contender, Pass, Track},
    report::{Row, Spread},
};

/// How much two f32 computations of one score may differ: a MaxSim sums up to 256 cosines.
const DIFFERENCE_MAX: f64 = 1e-3;
/// Against candle's own BERT in the same run, f32 and int8.
const CANDLE_TARGETS: [f64; 2] = [2.0, 4.0];
/// Through the server against in process.
const GRPC_TARGET: f64 = 0.9;
/// With AVX2 alone against a rival with everything.
const AVX2_TARGET: f64 = 1.0;

/// Our contenders.
pub struct Ours {
    /// Our engine.
    pub f32: InProcess,
    /// In int8.
    pub int8: InProcess,
    /// With weights in f16.
    pub f16: InProcess,
    /// With AVX2, where the machine has more.
    pub avx2: Option<InProcess>,
    /// Our packed graph on candle's products: the second opinion.
    pub candle: InProcess,
    /// Our engine behind the server.
    pub served: OverGrpc,
}

/// Ratios that are asked for against ONNX Runtime in the same precision.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// In f32.
    pub f32: f64,
    /// In int8.
    pub int8: f64,
}

impl Ours {
    /// What computes each.
    #[must_use]
    pub fn descriptions(&self) -> Vec<String> {
        let engines = [Some(&self.f32), Some(&self.int8), Some(&self.f16), self.avx2.as_ref(), Some(&self.candle)];
        engines.into_iter().flatten().map(InProcess::description).collect()
    }

    /// All of them, in the order in which [`Tracks::of`] takes their tracks; the rivals' follow.
    pub fn contenders(&mut self, method: Method) -> Vec<Box<dyn Contender + '_>> {
        let Self { f32, int8, f16, avx2, candle, served } = self;
        let mut contenders: Vec<Box<dyn Contender + '_>> = vec![Box::new(f32.contender(method))];
        contenders.push(Box::new(int8.contender(method)));
        contenders.push(Box::new(candle.contender(method)));
        contenders.push(Box::new(served.contender(method)));
        contenders.push(Box::new(f16.contender(method)));
        contenders.extend(avx2.as_mut().map(|avx2| Box::new(avx2.contender(method)) as Box<dyn Contender + '_>));
        contenders
    }
}

/// The contenders of a case, when they are through.
pub struct Tracks {
    ours: Track,
    int8: Track,
    candle: Track,
    served: Track,
    f16: Track,
    avx2: Option<Track>,
    rival_f32: Track,
    rival_int8: Track,
    candle_bert: Track,
}

impl Tracks {
    /// In the order of [`Ours::contenders`]; then ONNX Runtime's two, and candle's own BERT.
    ///
    /// # Errors
    /// If some are missing.
    pub fn of(tracks: Vec<Track>) -> anyhow::Result<Self> {
        let missing = || anyhow!("a contender is missing");
        let with_avx2 = tracks.len() > 8;
        let mut tracks = tracks.into_iter();
        let mut next = || tracks.next().ok_or_else(missing);
        let (ours, int8, candle, served, f16) = (next()?, next()?, next()?, next()?, next()?);
        let avx2 = if with_avx2 { Some(next()?) } else { None };
        let (rival_f32, rival_int8, candle_bert) = (next()?, next()?, next()?);
        Ok(Self { ours, int8, candle, served, f16, avx2, rival_f32, rival_int8, candle_bert })
    }

    /// Every comparison of the case.
    #[must_use]
    pub fn rows(&self, case: &str, targets: Targets) -> Vec<Row> {
        let Self { ours, int8, candle, served, f16, avx2, rival_f32, rival_int8, candle_bert } = self;
        let rate = Pass::documents_per_second;
        let row = |part: &str, tracks, target| row(format!("{case}{part}"), "documents/s", tracks, rate, target);
        let mut rows = vec![
            row("", (ours, rival_f32), Some(targets.f32)),
            row("", (ours, rival_int8), None),
            row("", (ours, candle_bert), Some(CANDLE_TARGETS[0])),
            row("", (ours, candle), None),
            row("/int8", (int8, rival_int8), Some(targets.int8)),
            row("/int8", (int8, rival_f32), None),
            row("/int8", (int8, candle_bert), Some(CANDLE_TARGETS[1])),
        ];
        rows.extend(avx2.as_ref().map(|avx2| row("/avx2", (avx2, rival_f32), Some(AVX2_TARGET))));
        rows.push(row("/f16", (f16, ours), None));
        let encode = format!("{case}/encode");
        rows.push(self::row(encode, "tokens/s", (ours, rival_f32), Pass::tokens_per_second, None));
        rows.push(row("/grpc", (served, ours), Some(GRPC_TARGET)));
        rows
    }

    /// Where the scores, or the work that was done for them, are not the same.
    #[must_use]
    pub fn faults(&self, case: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let f32 = [Some(&self.ours), Some(&self.served), Some(&self.candle), self.avx2.as_ref()];
        for track in f32.into_iter().flatten().chain([&self.candle_bert]) {
            let difference = track.largest_difference(&self.rival_f32);
            if difference > DIFFERENCE_MAX {
                faults.push(format!(
                    "{case}: a score of {} differs by {difference:.1e} from ONNX Runtime's, more than {DIFFERENCE_MAX}",
                    track.name
                ));
            }
        }
        let tokens = |track: &Track| track.passes.first().map_or(0, |pass| pass.tokens);
        for track in f32.into_iter().flatten().chain([&self.int8, &self.f16, &self.candle_bert]) {
            let (ours, rival) = (tokens(track), tokens(&self.rival_f32));
            if ours != rival {
                faults.push(format!("{case}: {ours} tokens of {}, and {rival} of ONNX Runtime", track.name));
            }
        }
        faults
    }

    /// What a reader of the rows wants to know beside them.
    #[must_use]
    pub fn summary(&self) -> String {
        let difference = |track: &Track| track.largest_difference(&self.rival_f32);
        let pass = self.rival_f32.passes.first().copied().unwrap_or_default();
        format!(
            "{:.1} tokens a document; scores within {:.1e} of the f32 rival's (over gRPC {:.1e}, f16 {:.1e}, int8 {:.1e}; the \
             int8 rival's own within {:.1e})",
            pass.tokens as f64 / pass.documents as f64,
            difference(&self.ours),
            difference(&self.served),
            difference(&self.f16),
            difference(&self.int8),
            difference(&self.rival_int8),
        )
    }
}

fn row(
    case: String,
    unit: &'static str,
    (ours, rival): (&Track, &Track),
    of: impl Fn(&Pass) -> f64 + Copy,
    target: Option<f64>,
) -> Row {
    let (rate, rival_rate): (Spread, Spread) = (ours.rate(of), rival.rate(of));
    Row {
        case,
        unit,
        ours: rate,
        rival: rival.name.clone(),
        rival_value: rival_rate,
        ratio: ours.ratio(rival, of),
        target,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use super::*;
    use crate::interleave::{
        interleave,
        tests::{Paced, requests},
    };

    fn tracks(our_score: f32, our_milliseconds: u64) -> Tracks {
        let log = RefCell::default();
        let paced = |name, milliseconds, score| Paced {
            name,
            per_document: Duration::from_millis(milliseconds),
            score,
            log: &log,
        };
        let contenders: &mut [&mut dyn Contender] = &mut [
            &mut paced("sluice", our_milliseconds, our_score),
            &mut paced("sluice int8", 1, 0.3),
            &mut paced("candle's products", 16, 0.5),
            &mut paced("sluice over grpc", 8, 0.5),
            &mut paced("sluice f16", 2, 0.5),
            &mut paced("sluice avx2", 4, 0.5),
            &mut paced("onnxruntime f32", 2, 0.5),
            &mut paced("onnxruntime int8", 1, 0.25),
            &mut paced("candle-transformers", 32, 0.5),
        ];
        Tracks::of(interleave(contenders, &requests(&[10, 20]), 3, || {}).unwrap()).unwrap()
    }

    #[test]
    fn every_case_has_its_rows() {
        let rows = tracks(0.5, 4).rows("dense/natural", Targets { f32: 1.5, int8: 2.0 });
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.case.as_str(), row.ours.median, row.rival.as_str(), row.ratio.median, row.target))
            .collect();
        let expected = [
            ("dense/natural", 125.0, "onnxruntime f32", 0.5, Some(1.5)),
            ("dense/natural", 125.0, "onnxruntime int8", 0.25, None),
            ("dense/natural", 125.0, "candle-transformers", 8.0, Some(2.0)),
            ("dense/natural", 125.0, "candle's products", 4.0, None),
            ("dense/natural/int8", 500.0, "onnxruntime int8", 1.0, Some(2.0)),
            ("dense/natural/int8", 500.0, "onnxruntime f32", 2.0, None),
            ("dense/natural/int8", 500.0, "candle-transformers", 32.0, Some(4.0)),
            ("dense/natural/avx2", 125.0, "onnxruntime f32", 0.5, Some(1.0)),
            ("dense/natural/f16", 250.0, "sluice", 2.0, None),
            ("dense/natural/encode", 2500.0, "onnxruntime f32", 0.5, None),
            ("dense/natural/grpc", 62.5, "sluice", 0.5, Some(0.9)),
        ];
        assert_eq!(found, expected);
        let without = Tracks { avx2: None, ..tracks(0.5, 4) };
        assert_eq!(without.rows("c", Targets { f32: 1.5, int8: 2.0 }).len(), expected.len() - 1);
    }

    #[test]
    fn other_scores_or_other_work_are_faults() {
        for (score, faults) in [(0.5, 0), (0.5009, 0), (0.5011, 1), (f32::NAN, 1)] {
            assert_eq!(tracks(score, 1).faults("case").len(), faults, "{score}");
        }
        let mut other = tracks(0.5, 1);
        other.ours.passes[0].tokens += 1;
        assert_eq!(other.faults("case"), ["case: 301 tokens of sluice, and 300 of ONNX Runtime"]);
    }
}
