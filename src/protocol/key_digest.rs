//! Keys of messages, shortened to one size.

use md5::{Digest, Md5};

/// A key, shortened. 128 bits: two keys are not mistaken for each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyDigest([u8; 16]);

impl KeyDigest {
    pub fn of(key: &[u8]) -> Self {
        Self(Md5::digest(key).into())
    }
}
