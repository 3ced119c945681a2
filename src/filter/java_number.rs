//! Numbers in texts, read as Java reads them (`Integer.valueOf`, `Long.valueOf`, `Double.valueOf`), but for the
//! digits of other scripts, which Java takes for whole numbers.

/// `Double.valueOf`: blanks around it, a suffix `f` or `d`, `NaN`, `Infinity` and hexadecimal are fine.
pub fn double(text: &str) -> Option<f64> {
    // Java's `trim` knows nothing but control characters and the blank.
    let text = text.trim_matches(|c: char| c <= ' ');
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let size = match digits {
        "NaN" => return Some(f64::NAN),
        "Infinity" => f64::INFINITY,
        _ => {
            let digits = digits.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(digits);
            match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
                Some(digits) => hexadecimal(digits)?,
                None => decimal(digits)?,
            }
        }
    };
    Some(if negative { -size } else { size })
}

/// Rust reads the same numbers, and a few words beside.
fn decimal(digits: &str) -> Option<f64> {
    let first = digits.bytes().next()?;
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if !(first.is_ascii_digit() || first == b'.') || !digits.bytes().all(plain) {
        return None;
    }
    digits.parse().ok()
}

/// What stands behind `0x`: `1.8p3`.
fn hexadecimal(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let exponent_digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if exponent_digits.is_empty() || !exponent_digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Beyond any double, whichever way.
    let exponent =
        exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { -1 << 40 } else { 1 << 40 });
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // The first 60 bits; of what follows only whether there is anything, which decides how it is rounded.
    let (mut bits, mut shift, mut rest) = (0u64, 0i64, false);
    for (place, digit) in whole.chars().chain(fraction.chars()).enumerate() {
        let digit = u64::from(digit.to_digit(16)?);
        let is_fraction = place >= whole.len();
        if bits >> 56 == 0 {
            bits = bits << 4 | digit;
            shift -= if is_fraction { 4 } else { 0 };
        } else {
            rest |= digit != 0;
            shift += if is_fraction { 0 } else { 4 };
        }
    }
    let size = (bits | u64::from(rest)) as f64;
    let exponent = exponent.saturating_add(shift).clamp(-2200, 2200) as i32;
    // Two steps, since a power may be out of range where the product is not.
    Some(size * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_read_as_java_reads_them() {
        let read: [(&str, f64); 14] = [
            ("1", 1.0),
            (" 1.5\t", 1.5),
            ("-.5", -0.5),
            ("+5.", 5.0),
            ("1e3", 1000.0),
            ("1.E-2", 0.01),
            ("1.5f", 1.5),
            ("2D", 2.0),
            ("1e400", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("0x1.8p3", 12.0),
            ("0x.8P1d", 1.0),
            ("0xFFFFFFFFFFFFFFFFp0", 18_446_744_073_709_551_615.0),
            ("0x1p-1074", 4.9e-324),
        ];
        for (text, expected) in read {
            assert_eq!(double(text), Some(expected), "{text:?}");
        }
        assert!(double("-NaN").unwrap().is_nan());
    }

    #[test]
    fn what_java_refuses_is_refused() {
        for text in [
            "", " ", "-", "inf", "nan", "infinity", "1L", "1.2.3", "e5", "1e", "1e+", ".", "1_000", "0x1",
            "0x.p1", "0xp1", "1ff", "--1", "1 2", "\u{a0}1",
        ] {
            assert_eq!(double(text), None, "{text:?}");
        }
    }
}
