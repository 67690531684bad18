//! Widths that vectors like.

/// f32 lanes of this CPU's widest vectors: 16 with AVX-512, 8 with AVX, 4 elsewhere.
pub fn native_lanes() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return 16;
        }
        if std::arch::is_x86_feature_detected!("avx") {
            return 8;
        }
    }
    4
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// How many of `units` to keep when a share `sparsity` is to go.
///
/// Each unit is `width` elements wide and `fixed` more units stay beside them. The dimension that is left is a multiple
/// of `round_to` elements, or of the largest half, quarter, … of it that takes no more than a quarter more or less than
/// asked for. At least one unit stays.
pub fn units_to_keep(units: usize, fixed: usize, width: usize, sparsity: f64, round_to: usize) -> usize {
    let wanted = units as f64 * (1.0 - sparsity);
    let slack = units as f64 * sparsity / 4.0;
    let mut lanes = round_to.max(1);
    loop {
        let step = lanes / greatest_common_divisor(lanes, width.max(1));
        let total = ((fixed as f64 + wanted) / step as f64).round() as usize * step;
        let kept = total.saturating_sub(fixed).clamp(1, units.max(1));
        if step == 1 || (kept as f64 - wanted).abs() <= slack && (kept + fixed).is_multiple_of(step) {
            return kept;
        }
        lanes /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_rounded_but_never_so_that_little_goes() {
        // (units, fixed, width, sparsity, round_to) -> kept
        let cases = [
            ((64, 0, 1, 0.3, 16), 48),
            ((96, 0, 1, 0.3, 16), 64),
            ((24, 0, 1, 0.3, 16), 16),
            ((40, 0, 1, 0.3, 16), 28),
            ((12, 0, 64, 0.3, 16), 8),
            ((4, 0, 32, 0.3, 16), 3),
            ((32, 0, 4, 0.3, 16), 24),
            ((10, 6, 1, 0.3, 8), 7),
            ((2, 0, 1, 0.3, 16), 1),
            ((3, 0, 1, 0.9, 16), 1),
            ((100, 0, 1, 0.0, 1), 100),
        ];
        for ((units, fixed, width, sparsity, round_to), kept) in cases {
            let found = units_to_keep(units, fixed, width, sparsity, round_to);
            assert_eq!(found, kept, "{units} {fixed} {width} {sparsity} {round_to}");
        }
    }
}
