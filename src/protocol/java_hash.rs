//! `String.hashCode` of Java: the tags code of a message and of a subscription.

/// `h = 31 * h + unit` over UTF-16 units, wrapping at 32 bits.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()))
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
            ("\u{1F600}", 1_772_899),
        ] {
            assert_eq!(java_string_hash(text), hash, "{text}");
        }
    }
}
