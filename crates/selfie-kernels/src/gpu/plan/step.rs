//! The size of a decode step.

/// The rows to use for a decode step of `rows` sequences: up to an eighth more, so that there are few different steps.
/// From 256 rows on a step is bound by its arithmetic, which hides the launches.
pub fn step_rows(rows: usize) -> usize {
    if rows >= 256 {
        return rows;
    }
    rows.next_multiple_of((rows.next_power_of_two() / 8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_few_different_sizes() {
        let sizes = [
            1, 2, 3, 7, 8, 9, 17, 30, 33, 64, 65, 129, 255, 256, 257, 608,
        ];
        let want = [
            1, 2, 3, 7, 8, 10, 20, 32, 40, 64, 80, 160, 256, 256, 257, 608,
        ];
        assert_eq!(sizes.map(step_rows), want);
        for rows in 1..256 {
            let step = step_rows(rows);
            assert!(step >= rows && step <= rows + rows.div_ceil(4));
            assert_eq!(step_rows(step), step);
        }
    }
}
