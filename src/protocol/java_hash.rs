//! `String.hashCode` of Java: the tags code of a message and of a subscription, the hash of a key.

/// `h = 31 * h + unit` over UTF-16 units, wrapping at 32 bits.
pub fn java_string_hash(text: &str) -> i32 {
    let add = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if text.is_ascii() {
        return text.bytes().fold(0, |hash, byte| add(hash, u16::from(byte)));
    }
    text.encode_utf16().fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_java_s() {
        for (text, hash) in [
            ("", 0),
            ("QX", 2_599),
            ("TagA", 2_598_919),
            ("hello world", 1_794_106_052),
            ("polygenelubricants", i32::MIN),
            ("消息", 0x6D88 * 31 + 0x606F),
            // Surrogates count one by one.
            ("\u{1F600}", 0xD83D * 31 + 0xDE00),
        ] {
            assert_eq!(java_string_hash(text), hash, "{text}");
        }
    }
}
