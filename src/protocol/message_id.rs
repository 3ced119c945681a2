//! Offset message ids: where a message lies, as text that clients hand back.
//!
//! ```text
//! upper-case hex of │ ip 4 or 16 │ port 4 │ physical offset 8 │     32 or 56 characters
//! ```
//!
//! Clients connect to the address inside.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::types::PhysicalOffset;

/// The text is not an offset message id; it may well be a unique key made by a client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an offset message id: {id:?}")]
pub struct MessageIdError {
    pub id: String,
}

/// The id of the message at `physical` on the broker that clients reach at `store_host`.
pub fn offset_message_id(store_host: SocketAddr, physical: PhysicalOffset) -> String {
    let mut id = String::with_capacity(56);
    push_offset_message_id(&mut id, store_host, physical);
    id
}

/// Appends the id. Without the machinery of `fmt`, since every stored message is answered with one.
pub fn push_offset_message_id(id: &mut String, store_host: SocketAddr, physical: PhysicalOffset) {
    match store_host.ip().to_canonical() {
        IpAddr::V4(ip) => push_hex(id, ip.octets()),
        IpAddr::V6(ip) => push_hex(id, ip.octets()),
    }
    push_hex(id, u32::from(store_host.port()).to_be_bytes());
    push_hex(id, physical.0.to_be_bytes());
}

fn push_hex<const N: usize>(id: &mut String, bytes: [u8; N]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let hex = bytes.map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    id.push_str(str::from_utf8(hex.as_flattened()).unwrap_or_default());
}

/// The parts of an offset message id; lower-case hex is read too.
pub fn parse_offset_message_id(id: &str) -> Result<(SocketAddr, PhysicalOffset), MessageIdError> {
    parse(id).ok_or_else(|| MessageIdError { id: id.to_owned() })
}

fn parse(id: &str) -> Option<(SocketAddr, PhysicalOffset)> {
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let ip_chars = match id.len() {
        32 => 8,
        56 => 32,
        _ => return None,
    };
    let (ip, rest) = id.split_at(ip_chars);
    let ip = match ip_chars {
        8 => IpAddr::from(u32::from_str_radix(ip, 16).ok()?.to_be_bytes()),
        _ => IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?)),
    };
    let port = u16::try_from(u32::from_str_radix(&rest[..8], 16).ok()?).ok()?;
    let physical = u64::from_str_radix(&rest[8..], 16).ok()?;
    Some((SocketAddr::new(ip, port), PhysicalOffset(physical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_of_address_and_position() {
        let v4 = offset_message_id("10.1.2.3:10911".parse().unwrap(), PhysicalOffset(0xABCDE));
        assert_eq!(v4, "0A01020300002A9F00000000000ABCDE");
        let v6 = offset_message_id("[2001:db8::1]:10911".parse().unwrap(), PhysicalOffset(1));
        assert_eq!(v6, "20010DB800000000000000000000000100002A9F0000000000000001");
        let mapped = offset_message_id("[::ffff:10.1.2.3]:10911".parse().unwrap(), PhysicalOffset(0xABCDE));
        assert_eq!(mapped, v4);
        for id in [v4, v6] {
            let (host, physical) = parse_offset_message_id(&id).unwrap();
            assert_eq!(offset_message_id(host, physical), id);
            assert!(parse_offset_message_id(&id.to_lowercase()).is_ok());
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for id in ["", "0A01", "0A0102030001FFFF00000000000ABCDE", "+A01020300002A9F00000000000ABCDE", "é"] {
            let parsed = parse_offset_message_id(id);
            assert!(parsed.is_err(), "{id}: {parsed:?}");
        }
        assert!(parse_offset_message_id(&"g".repeat(32)).is_err());
        assert!(parse_offset_message_id(&"FFFFFFFF".repeat(4)).is_err(), "no such port");
    }
}
