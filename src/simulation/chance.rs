//! Chance that a seed repeats.

use std::time::Duration;

pub use crate::testing::world::Chance;

impl Chance {
    /// Another chance, told apart by `name`: what one of them is asked does not change what another says.
    pub fn stream(seed: u64, name: &str) -> Self {
        let mixed = name.bytes().fold(seed ^ 0x51_7C_C1_B7_27_22_0A_95, |mixed, byte| {
            (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29)
        });
        Self::of_seed(mixed)
    }

    /// Milliseconds in `[from, to)`.
    pub fn between_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
