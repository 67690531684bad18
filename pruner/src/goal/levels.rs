//! Which share of a way to try next.

/// Greatest share that is tried.
const FARTHEST: f64 = 0.98;

/// Shares are multiples of one over this.
const PARTS: f64 = 200.0;

/// Where what two shares leave differs by less than this factor, nothing between them is worth a try.
const FINE: f64 = 1.06;

/// What followed from a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What must be kept is kept.
    Kept,
    /// It is no better than what was found before.
    Idle,
    /// Something that must be kept is not.
    Broken,
}

/// What is known of the shares of a way. Whatever is bounded is taken to go one way as more is removed.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    first: f64,
    most: f64,
    begun: bool,
    held: bool,
    /// The greatest share known to be too little to look at.
    little: f64,
    /// The least share known to be too much.
    broken: Option<f64>,
}

impl Levels {
    /// Of a way of which the first share is tried first, and no more than `most` before something holds.
    pub(super) fn new(first: f64, most: f64) -> Self {
        Self { first, most, begun: false, held: false, little: 0.0, broken: None }
    }

    /// The next share; `None` once the place is found.
    pub(super) fn next(&self) -> Option<f64> {
        if !self.begun {
            return Some(self.first);
        }
        let much = self.broken.unwrap_or(if self.held { FARTHEST } else { self.most });
        let share = (self.little.midpoint(much) * PARTS).round() / PARTS;
        let apart = (1.0 - self.little) / (1.0 - much) > FINE;
        (apart && share > self.little && share < much).then_some(share)
    }

    /// Takes in what followed from a share.
    pub(super) fn learn(&mut self, share: f64, found: Found) {
        self.begun = true;
        self.held |= found == Found::Kept;
        match found {
            Found::Kept | Found::Idle => self.little = self.little.max(share),
            Found::Broken => self.broken = Some(self.broken.map_or(share, |least| least.min(share))),
        }
    }

    /// Of a way that keeps more: first what was too much of this one, and from there upward.
    pub(super) fn onward(&self) -> Option<Self> {
        let first = self.broken.filter(|&share| share > self.little)?;
        Some(Self { first, most: self.most.max(first), begun: false, broken: None, ..*self })
    }

    /// Nothing more is to be tried.
    pub(super) fn close(&mut self) {
        (self.begun, self.broken) = (true, Some(self.little));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries shares until the place is found.
    fn tried([first, most]: [f64; 2], holds: f64, pays: f64) -> Vec<f64> {
        let (mut levels, mut all) = (Levels::new(first, most), Vec::new());
        while let Some(share) = levels.next() {
            all.push(share);
            let found = match share {
                share if share < pays => Found::Idle,
                share if share <= holds => Found::Kept,
                _ => Found::Broken,
            };
            levels.learn(share, found);
        }
        all
    }

    #[test]
    fn the_place_is_found_from_either_side() {
        assert_eq!(tried([0.75, 0.9], 0.81, 0.0), [0.75, 0.865, 0.81, 0.84, 0.825, 0.82]);
        assert_eq!(tried([0.75, 0.9], 0.6, 0.5), [0.75, 0.375, 0.565, 0.66, 0.615, 0.59, 0.605]);
        // Nothing holds where anything is to be gained.
        let none = tried([0.25, 0.5], 0.0, 0.2);
        assert!(none.len() <= 6 && none.iter().all(|&share| share > 0.1), "{none:?}");
        // What pays only where hardly anything ever holds is let be.
        assert!(tried([0.25, 0.5], 0.3, 0.6).iter().all(|&share| share < 0.5));
        let mut closed = Levels::new(0.5, 0.9);
        closed.close();
        assert_eq!((closed.next(), closed.onward().is_some()), (None, false));
    }

    #[test]
    fn what_keeps_more_goes_on_from_what_was_too_much() {
        let mut levels = Levels::new(0.7, 0.88);
        assert!(levels.onward().is_none());
        levels.learn(0.7, Found::Kept);
        levels.learn(0.77, Found::Broken);
        let shares = |holds: f64| {
            let (mut onward, mut all) = (levels.onward().unwrap(), Vec::new());
            while let Some(share) = onward.next() {
                all.push(share);
                onward.learn(share, if share <= holds { Found::Kept } else { Found::Broken });
            }
            all
        };
        let (near, far) = (shares(0.7), shares(0.81));
        assert_eq!((near[0], &far[..2]), (0.77, &[0.77, 0.875][..]));
        assert!(near.iter().all(|share| (0.7..=0.77).contains(share)), "{near:?}");
        assert!(far.iter().any(|share| (0.8..=0.81).contains(share)), "{far:?}");
    }
}
