//! Subscription identifiers of an MQTT 5 PUBLISH, taken out before rumqttc reads the packet: its
//! codec (0.25) counts each of them one byte too long, so that with several of them a property
//! becomes a part of the payload.

use bytes::{BufMut, BytesMut};

const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;

/// The packet without its subscription identifiers, and they; `None` if it has none, or is not well
/// formed.
pub(super) fn taken_out(frame: &[u8]) -> Option<(BytesMut, Vec<u32>)> {
    let first = *frame.first()?;
    let (length, _) = number(frame.get(1..)?)?;
    let body = frame.get(1 + length..)?;
    let packet_id = if first & 6 == 0 { 0 } else { 2 };
    let (head, rest) = body.split_at_checked(text(body)? + packet_id)?;
    let (length, size) = number(rest)?;
    let (properties, payload) = rest.get(length..)?.split_at_checked(size)?;
    let (kept, identifiers) = sorted(properties)?;
    if identifiers.is_empty() {
        return None;
    }
    let mut variable = BytesMut::from(head);
    put_number(kept.len(), &mut variable);
    let mut packet = BytesMut::with_capacity(frame.len());
    packet.put_u8(first);
    put_number(variable.len() + kept.len() + payload.len(), &mut packet);
    for part in [&variable, &kept, payload] {
        packet.put_slice(part);
    }
    Some((packet, identifiers))
}

/// The other properties of a PUBLISH, and its subscription identifiers.
fn sorted(mut properties: &[u8]) -> Option<(BytesMut, Vec<u32>)> {
    let (mut kept, mut identifiers) = (BytesMut::new(), Vec::new());
    while let Some((kind, value)) = properties.split_first() {
        let size = match *kind {
            0x01 => 1,
            0x02 => 4,
            0x23 => 2,
            0x03 | 0x08 | 0x09 => text(value)?,
            0x26 => text(value)? + text(value.get(text(value)?..)?)?,
            SUBSCRIPTION_IDENTIFIER => {
                let (size, identifier) = number(value)?;
                identifiers.push(u32::try_from(identifier).ok()?);
                size
            }
            _ => return None,
        };
        let (property, behind) = properties.split_at_checked(1 + size)?;
        if *kind != SUBSCRIPTION_IDENTIFIER {
            kept.put_slice(property);
        }
        properties = behind;
    }
    Some((kept, identifiers))
}

/// How long text with its length before it is.
fn text(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<2>()?;
    Some(2 + usize::from(u16::from_be_bytes(*length)))
}

/// A number of up to four bytes, and how many it has [MQTT 5.0, 1.5.5].
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 1, value));
        }
    }
    None
}

fn put_number(mut value: usize, bytes: &mut BytesMut) {
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or_default();
        value >>= 7;
        bytes.put_u8(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PUBLISH of `x` on `a/b` with these properties.
    fn publish(properties: &[u8], qos: u8) -> Vec<u8> {
        let mut body = vec![0, 3, b'a', b'/', b'b'];
        body.extend(if qos > 0 { vec![0, 7] } else { Vec::new() });
        let mut length = BytesMut::new();
        put_number(properties.len(), &mut length);
        body.extend(length);
        body.extend(properties);
        body.push(b'x');
        let mut packet = BytesMut::from(&[0x30 | qos << 1][..]);
        put_number(body.len(), &mut packet);
        packet.extend(body);
        packet.to_vec()
    }

    #[test]
    fn identifiers_are_taken_out_wherever_they_are() {
        let text = [0x01, 1, 0x26, 0, 1, b'n', 0, 1, b'v', 0x02, 0, 0, 0, 9];
        let long: Vec<u8> = [&[0x09, 0, 200][..], &[7; 200]].concat();
        for qos in [0, 1, 2] {
            for kept in [&text[..], &long, &[]] {
                let with = [&[0x0B, 1, 0x0B, 0x80, 1][..], kept, &[0x0B, 3]].concat();
                let (packet, identifiers) = taken_out(&publish(&with, qos)).unwrap();
                assert_eq!(
                    (packet.to_vec(), identifiers),
                    (publish(kept, qos), vec![1, 128, 3])
                );
                assert_eq!(taken_out(&publish(kept, qos)), None);
            }
        }
    }

    #[test]
    fn what_is_not_well_formed_is_left_to_the_codec() {
        let whole = publish(&[0x0B, 1, 0x08, 0, 1, b'r'], 1);
        for length in 0..whole.len() - 1 {
            taken_out(&whole[..length]);
        }
        assert_eq!(taken_out(&publish(&[0x0B], 1)), None);
        assert_eq!(taken_out(&publish(&[0x7F, 1], 1)), None);
    }
}
