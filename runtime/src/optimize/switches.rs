//! Which passes are applied.

use std::fmt;

use super::PASSES;

/// Which of [`PASSES`] are applied; by default all.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Passes(u32);

/// Why a word does not say which passes are meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PassesError {
    #[error("no pass is called {name:?}; there are all, {}", names(PASSES.len()))]
    Unknown { name: String },
}

fn names(count: usize) -> String {
    PASSES.iter().take(count).map(|pass| pass.name).collect::<Vec<_>>().join(", ")
}

impl Default for Passes {
    fn default() -> Self {
        Self::all()
    }
}

impl Passes {
    /// Every pass.
    pub const fn all() -> Self {
        Self((1 << PASSES.len()) - 1)
    }

    /// No pass: every node runs on its own, which is for comparison.
    pub const fn none() -> Self {
        Self(0)
    }

    /// The same with a pass switched on or off.
    ///
    /// # Errors
    /// When no pass has that name.
    pub fn with(self, name: &str, on: bool) -> Result<Self, PassesError> {
        let unknown = || PassesError::Unknown { name: name.to_owned() };
        let bit = 1 << PASSES.iter().position(|pass| pass.name == name).ok_or_else(unknown)?;
        Ok(Self(if on { self.0 | bit } else { self.0 & !bit }))
    }

    /// All but those named, with commas between; none of them without `all`.
    ///
    /// # Errors
    /// When no pass has one of the names.
    pub fn without(names: &str) -> Result<Self, PassesError> {
        let mut words = names.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.try_fold(Self::all(), |passes, word| match word {
            "all" => Ok(Self::none()),
            word => passes.with(word, false),
        })
    }

    /// Whether a pass is applied.
    ///
    /// # Panics
    /// When no pass has that name.
    pub fn has(self, name: &str) -> bool {
        let at = PASSES.iter().position(|pass| pass.name == name);
        self.0 >> at.unwrap_or_else(|| panic!("no pass is called {name}")) & 1 == 1
    }

    /// Names of the passes that are not applied, as [`Passes::without`] reads them.
    pub fn switched_off(self) -> String {
        let off = PASSES.iter().map(|pass| pass.name).filter(|name| !self.has(name));
        off.collect::<Vec<_>>().join(",")
    }
}

impl fmt::Debug for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all but {:?}", self.switched_off())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_switch_passes() {
        assert_eq!(Passes::without(""), Ok(Passes::all()));
        assert_eq!(Passes::without("all"), Ok(Passes::none()));
        let passes = Passes::without(" norms,fold ,").unwrap();
        assert!(!passes.has("norms") && !passes.has("fold") && passes.has("pads"));
        assert_eq!(passes, Passes::all().with("norms", false).unwrap().with("fold", false).unwrap());
        for passes in [Passes::all(), Passes::none(), passes] {
            assert_eq!(Passes::without(&passes.switched_off()), Ok(passes));
        }
        let error = Passes::without("nrms").unwrap_err().to_string();
        assert!(error.contains("nrms") && error.contains("norm-parameters"), "{error}");
    }

    #[test]
    fn names_are_unique_words() {
        for (at, pass) in PASSES.iter().enumerate() {
            assert!(PASSES[..at].iter().all(|other| other.name != pass.name), "{}", pass.name);
            assert!(!pass.name.contains([',', ' ']) && pass.name != "all");
            assert!((1..=40).contains(&pass.about.len()), "{}", pass.about);
        }
    }
}
