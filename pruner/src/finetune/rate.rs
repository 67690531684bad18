//! Learning rates over a run.

use serde::{Deserialize, Serialize};

/// How the rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateShape {
    /// Half a cosine down to 0. Loshchilov and Hutter, ICLR 2017, <https://arxiv.org/abs/1608.03983>.
    Cosine,
    /// A tenth after half of the run, a hundredth after three quarters.
    Step,
    /// The same throughout.
    Constant,
}

/// The learning rate of each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The greatest.
    pub peak: f32,
    /// What comes after the warm-up.
    pub shape: RateShape,
    /// Share of the run over which the rate rises from 0 to its peak.
    pub warm_up: f64,
}

impl Rate {
    /// The rate of step `step` of `steps`, counted from 0.
    pub fn at(&self, step: u64, steps: u64) -> f32 {
        let warm = (self.warm_up * steps as f64).round() as u64;
        if step < warm {
            return (f64::from(self.peak) * (step + 1) as f64 / warm as f64) as f32;
        }
        let along = (step - warm) as f64 / (steps - warm).max(1) as f64;
        let factor = match self.shape {
            RateShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * along).cos()),
            RateShape::Step if along < 0.5 => 1.0,
            RateShape::Step if along < 0.75 => 0.1,
            RateShape::Step => 0.01,
            RateShape::Constant => 1.0,
        };
        (f64::from(self.peak) * factor) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_then_fall() {
        let rate = |shape| Rate { peak: 1.0, shape, warm_up: 0.1 };
        let at = |shape, step| rate(shape).at(step, 100);
        assert_eq!(
            [at(RateShape::Cosine, 0), at(RateShape::Cosine, 9), at(RateShape::Cosine, 10)],
            [0.1, 1.0, 1.0]
        );
        assert!((at(RateShape::Cosine, 55) - 0.5).abs() < 1e-6 && at(RateShape::Cosine, 99) < 1e-3);
        assert_eq!(
            [at(RateShape::Step, 54), at(RateShape::Step, 55), at(RateShape::Step, 99)],
            [1.0, 0.1, 0.01]
        );
        assert_eq!(at(RateShape::Constant, 99), 1.0);
        assert_eq!(Rate { warm_up: 0.0, ..rate(RateShape::Cosine) }.at(0, 1), 1.0);
    }
}
