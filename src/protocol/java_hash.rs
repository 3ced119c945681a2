//! `String.hashCode` of Java: the tags code of a message and of a subscription, the hash of a key.

/// `h = 31 * h + unit` over UTF-16 units, wrapping at 32 bits.
pub fn java_string_hash(text: &str) -> i32 {
    continue_java_hash(0, text)
}

/// The hash of a text that begins with one whose hash is `hash`, and goes on with `text`.
pub fn continue_java_hash(hash: i32, text: &str) -> i32 {
    let add = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if !text.is_ascii() {
        return text.encode_utf16().fold(hash, add);
    }
    // Four at a time: each step waits for the one before, and a multiplication takes its time.
    let (fours, rest) = text.as_bytes().as_chunks::<4>();
    let hash = fours.iter().fold(hash, |hash, four| {
        let [a, b, c, d] = four.map(i32::from);
        hash.wrapping_mul(31 * 31 * 31 * 31).wrapping_add(a * (31 * 31 * 31) + b * (31 * 31) + c * 31 + d)
    });
    rest.iter().fold(hash, |hash, byte| add(hash, u16::from(*byte)))
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
            for (at, _) in text.char_indices() {
                let (begin, rest) = text.split_at(at);
                assert_eq!(continue_java_hash(java_string_hash(begin), rest), hash, "{begin} and {rest}");
            }
        }
    }
}
