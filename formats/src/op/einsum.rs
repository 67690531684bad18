//! The equation of an Einsum: axes of operands named by letters.

/// The axes of one operand, or of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Letters before `...`, or all.
    pub before: Vec<char>,
    /// Letters after `...`, where there is one.
    pub after: Option<Vec<char>>,
}

/// A parsed equation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equation {
    /// Of each operand.
    pub inputs: Vec<Term>,
    /// Of the result; where it is left out: every letter that occurs once, in order of the alphabet.
    pub output: Option<Term>,
}

/// Why text is no equation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("einsum equation {equation:?} is not well formed at {at:?}")]
#[allow(missing_docs)]
pub struct EquationError {
    pub equation: String,
    pub at: String,
}

impl Equation {
    /// Parses an equation such as `bij,bjk->bik`.
    ///
    /// # Errors
    /// When a term holds something other than letters and one `...`.
    pub fn parse(equation: &str) -> Result<Self, EquationError> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let term = |text: &str| {
            let letters = |part: &str| {
                let valid = part.chars().all(|c| c.is_ascii_alphabetic());
                valid.then(|| part.chars().collect::<Vec<_>>())
            };
            let term = match text.split_once("...") {
                Some((before, after)) => letters(before).zip(letters(after)).map(|(b, a)| (b, Some(a))),
                None => letters(text).map(|all| (all, None)),
            };
            let (before, after) =
                term.ok_or_else(|| EquationError { equation: equation.to_owned(), at: text.to_owned() })?;
            Ok(Term { before, after })
        };
        let (left, right) = text.split_once("->").map_or((&text[..], None), |(l, r)| (l, Some(r)));
        let inputs = left.split(',').map(term).collect::<Result<_, _>>()?;
        Ok(Self { inputs, output: right.map(term).transpose()? })
    }

    /// The letters of the result, without what `...` stands for.
    pub fn output_letters(&self) -> Vec<char> {
        let Some(output) = &self.output else {
            let mut letters: Vec<char> = self.inputs.iter().flat_map(Term::letters).collect();
            letters.sort_unstable();
            return letters.chunk_by(|a, b| a == b).filter(|c| c.len() == 1).map(|c| c[0]).collect();
        };
        output.letters().collect()
    }
}

impl Term {
    /// All letters, in order.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        self.before.iter().chain(self.after.iter().flatten()).copied()
    }

    /// The letters, where they name each axis of a tensor of rank `rank`.
    pub fn names(&self, rank: usize) -> Option<Vec<char>> {
        let letters: Vec<char> = self.letters().collect();
        (letters.len() == rank).then_some(letters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_parsed() {
        let equation = Equation::parse("b...i , ij -> ...j b").unwrap();
        assert_eq!(equation.inputs[0], Term { before: vec!['b'], after: Some(vec!['i']) });
        assert_eq!(equation.output_letters(), ['j', 'b']);
        assert_eq!(Equation::parse("ij,jk").unwrap().output_letters(), ['i', 'k']);
        assert_eq!(Equation::parse("ii").unwrap().output_letters(), Vec::<char>::new());
        for bad in ["i1->i", "ij->i->j", "i...j...->i", "i.j"] {
            assert!(Equation::parse(bad).is_err(), "{bad}");
        }
    }
}
