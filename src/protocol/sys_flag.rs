//! Bits of `sysFlag`: what broker and client must know of a message before they look into it.

/// The body is compressed; how, is in [`COMPRESSION_TYPE_MASK`].
pub const COMPRESSED: i32 = 0x1;
pub const MULTI_TAGS: i32 = 0x2;
/// The two bits that hold the [`TransactionType`].
pub const TRANSACTION_MASK: i32 = 0xC;
/// The born host is an IPv6 address. Set by the append; what a client sends is ignored.
pub const BORN_HOST_V6: i32 = 0x10;
/// The store host is an IPv6 address. Set by the append; what a client sends is ignored.
pub const STORE_HOST_V6: i32 = 0x20;
/// The body is a batch that the client takes apart.
pub const NEED_UNWRAP: i32 = 0x40;
pub const INNER_BATCH: i32 = 0x80;
/// 1 LZ4, 2 ZSTD, 3 or 0 ZLIB, shifted by [`COMPRESSION_TYPE_SHIFT`].
pub const COMPRESSION_TYPE_MASK: i32 = 0x700;
pub const COMPRESSION_TYPE_SHIFT: u32 = 8;

/// The transaction bits of a `sysFlag`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionType {
    None,
    Prepared,
    Commit,
    Rollback,
}

impl TransactionType {
    pub fn of(sys_flag: i32) -> Self {
        match sys_flag & TRANSACTION_MASK {
            0x4 => Self::Prepared,
            0x8 => Self::Commit,
            0xC => Self::Rollback,
            _ => Self::None,
        }
    }

    /// `sys_flag` with its transaction bits replaced by this type.
    pub fn set_in(self, sys_flag: i32) -> i32 {
        let bits = match self {
            Self::None => 0x0,
            Self::Prepared => 0x4,
            Self::Commit => 0x8,
            Self::Rollback => 0xC,
        };
        sys_flag & !TRANSACTION_MASK | bits
    }
}
