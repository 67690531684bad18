//! Decisions read from a tape of numbers, so that what grows from them shrinks with it: a shorter tape decides less, and
//! smaller numbers decide for the simpler, which always is the first.

/// What is left of a tape.
pub(crate) struct Choices<'t> {
    tape: std::slice::Iter<'t, u32>,
}

impl<'t> Choices<'t> {
    pub(crate) fn new(tape: &'t [u32]) -> Self {
        Self { tape: tape.iter() }
    }

    /// Whether the tape is at its end; from there on every decision is the first.
    pub(crate) fn done(&self) -> bool {
        self.tape.len() == 0
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.tape.next().map_or(0, |&v| v as usize % bound)
    }

    pub(crate) fn of<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    /// True one time in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}
