//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), used to hash counters.

/// The increment of the generator's state at each step.
pub(crate) const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output for a state.
pub(crate) fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
