//! What Slice takes along one axis.

/// The first element that Slice takes along an axis of `size`, and how many, `step` apart; 0 and 0 when there are none, `None` for
/// a step of 0. Ends are clamped as ONNX says, and the greatest number, as `i32` or `i64`, is the end in the direction of the step,
/// as ONNX Runtime has it: exporters write it for both.
pub fn slice_elements(size: usize, start: i64, end: i64, step: i64) -> Option<(usize, usize)> {
    let size = i64::try_from(size).ok()?;
    let from_front = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let open = end == i64::MAX || end == i64::from(i32::MAX);
    let (start, end) = (from_front(start), from_front(end));
    let (start, distance) = match step {
        0 => return None,
        1.. => {
            let start = start.clamp(0, size);
            (start, if open { size } else { end.clamp(0, size) } - start)
        }
        _ if size == 0 => (0, 0),
        _ => {
            let start = start.clamp(0, size - 1);
            (start, start - if open { -1 } else { end.clamp(-1, size - 1) })
        }
    };
    let count = if distance <= 0 { 0 } else { (distance as u64).div_ceil(step.unsigned_abs()) as usize };
    Some((if count == 0 { 0 } else { start as usize }, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_clamped_to_the_axis() {
        // (size, start, end, step) and (first, count).
        let cases = [
            ((10, 2, 8, 3), (2, 2)),
            ((10, -3, i64::MAX, 1), (7, 3)),
            ((10, i64::MIN, i64::MAX, 1), (0, 10)),
            ((10, 8, 2, 1), (0, 0)),
            ((10, -1, i64::MIN, -1), (9, 10)),
            ((10, 20, 0, -4), (9, 3)),
            ((10, 3, -11, -1), (3, 4)),
            ((10, i64::MAX, i64::MIN, i64::MIN), (9, 1)),
            ((10, 0, 5, i64::MAX), (0, 1)),
            ((0, 0, i64::MAX, 1), (0, 0)),
            ((0, -1, i64::MIN, -1), (0, 0)),
            ((1, 0, 1, 1), (0, 1)),
            // Backwards from before the first element: from the first.
            ((4, -6, -7, -2), (0, 1)),
            ((4, -6, -1, -2), (0, 0)),
            // Backwards without an end.
            ((5, -3, i64::MAX, -2), (2, 2)),
            ((5, 4, i32::MAX.into(), -1), (4, 5)),
            // Also of an axis that is longer.
            ((1 << 32, 0, i32::MAX.into(), 1), (0, 1 << 32)),
        ];
        for ((size, start, end, step), expected) in cases {
            let found = slice_elements(size, start, end, step);
            assert_eq!(found, Some(expected), "{size} from {start} to {end} by {step}");
        }
        assert_eq!(slice_elements(3, 0, 3, 0), None);
    }
}
