//! Text widths in Helvetica, and in Arial and Liberation Sans, which share its widths.

use unicode_width::UnicodeWidthChar;

/// Advance widths of ' ' to '~' in thousandths of the font size: Adobe's metrics of Helvetica (Core 14 AFM files).
const ASCII: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667,
    611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667,
    667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500,
    222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];

/// The width of a text in units of the font size. Combining marks have no width; beyond ASCII it is an estimate.
pub(crate) fn width(text: &str) -> f64 {
    text.chars().map(char_width).sum()
}

pub(crate) fn char_width(c: char) -> f64 {
    let ascii = u32::from(c)
        .checked_sub(32)
        .and_then(|at| ASCII.get(at as usize));
    match ascii {
        Some(&width) => f64::from(width) / 1000.0,
        None => match c.width() {
            Some(0) => 0.0,
            Some(2) => 1.0,
            _ => 0.6,
        },
    }
}
