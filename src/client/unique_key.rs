//! Message ids as clients make them (RocketMQ: `MessageClientIDSetter`): upper-case hex of address, process,
//! loader, milliseconds within the month, counter.

use crate::client::calendar::month_start_ms;
use crate::clock::WallMs;

/// Length of a key over an IPv4 address, characters.
pub const UNIQUE_KEY_CHARS: usize = 32;

/// Makes keys that no other maker makes, as long as processes on one host differ in number.
#[derive(Clone, Debug)]
pub struct UniqueKeys {
    /// Address, process, loader: 10 bytes.
    prefix: [u8; 10],
    month_start_ms: i64,
    counter: u16,
}

impl UniqueKeys {
    /// `maker` tells makers within one process apart.
    pub fn new(address: [u8; 4], process: u16, maker: u32, now: WallMs) -> Self {
        let mut prefix = [0; 10];
        prefix[..4].copy_from_slice(&address);
        prefix[4..6].copy_from_slice(&process.to_be_bytes());
        prefix[6..].copy_from_slice(&maker.to_be_bytes());
        Self { prefix, month_start_ms: month_start_ms(now.0), counter: 0 }
    }

    /// The next key.
    pub fn next(&mut self, now: WallMs) -> String {
        let mut bytes = [0; UNIQUE_KEY_CHARS / 2];
        bytes[..10].copy_from_slice(&self.prefix);
        bytes[10..14].copy_from_slice(&((now.0 - self.month_start_ms) as u32).to_be_bytes());
        bytes[14..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        bytes.iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_spells_its_parts() {
        let mut keys = UniqueKeys::new([127, 0, 0, 1], 0x1234, 7, WallMs(1_709_164_800_000));
        assert_eq!(keys.next(WallMs(1_706_745_600_255)), "7F000001123400000007000000FF0000");
        assert_eq!(keys.next(WallMs(1_706_745_600_255)), "7F000001123400000007000000FF0001");
    }
}
