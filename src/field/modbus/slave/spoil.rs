//! Faults applied to the answers of a simulated slave.

use std::io;
use std::sync::PoisonError;

use super::{FaultKind, Image, SharedFaults};

/// The faults that strike this request.
pub(super) fn inject(faults: &SharedFaults, unit: u8, request: &[u8]) -> Vec<FaultKind> {
    faults
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .inject(unit, request.first().copied())
}

pub(super) fn random(count: usize) -> Vec<u8> {
    (0..count).map(|_| fastrand::u8(..)).collect()
}

pub(super) fn unplugged() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// The answer of a device; one that refuses a request does not carry it out.
pub(super) fn answer(
    image: &Image,
    unit: u8,
    request: &[u8],
    faults: &[FaultKind],
) -> Option<Vec<u8>> {
    if faults
        .iter()
        .any(|fault| matches!(fault, FaultKind::Exception(_)))
        && image.has(unit)
    {
        return request.get(..1).map(<[u8]>::to_vec);
    }
    image.answer(unit, request)
}

/// Changes the body of an answer (unit, function, data) as the faults have it; `None` for no
/// answer.
pub(super) fn spoiled(mut body: Vec<u8>, faults: &[FaultKind]) -> Option<Vec<u8>> {
    let change = |body: &mut Vec<u8>, at: usize, change: fn(u8) -> u8| {
        if let Some(byte) = body.get_mut(at) {
            *byte = change(*byte);
        }
    };
    for fault in faults {
        match fault {
            FaultKind::Silence | FaultKind::EchoOnly | FaultKind::Noise(_) => return None,
            FaultKind::Exception(code) => {
                let function = body.get(1).copied().unwrap_or_default() | 0x80;
                body = vec![body.first().copied().unwrap_or_default(), function, *code];
            }
            FaultKind::WrongUnit => change(&mut body, 0, |unit| unit.wrapping_add(1)),
            FaultKind::WrongFunction => change(&mut body, 1, |function| function ^ 7),
            FaultKind::WrongAddress => change(&mut body, 3, |low| low.wrapping_add(1)),
            _ => {}
        }
    }
    // Together: one register less and one more is the answer as it was.
    let by = faults.iter().map(|fault| match fault {
        FaultKind::WrongLength(by) => i32::from(*by),
        _ => 0,
    });
    resize(&mut body, by.sum());
    Some(body)
}

/// Makes an answer, and its byte count, longer or shorter by a number of registers.
fn resize(body: &mut Vec<u8>, by: i32) {
    let Some(length) = body.get(2).copied().filter(|_| by != 0) else {
        return;
    };
    let wanted = i32::from(length)
        .saturating_add(by.saturating_mul(2))
        .clamp(0, 250);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    body.resize(3 + wanted, 0x77);
    if let Some(count) = body.get_mut(2) {
        *count = u8::try_from(wanted).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_add_up_and_make_no_answer_that_only_looks_right() {
        let answer = || vec![1, 3, 4, 0x12, 0x34, 0x56, 0x78];
        let spoil = |by: &[i16]| {
            let faults: Vec<FaultKind> = by.iter().copied().map(FaultKind::WrongLength).collect();
            spoiled(answer(), &faults).unwrap()
        };
        assert_eq!(spoil(&[-1, 1]), answer());
        assert_eq!(spoil(&[-1]), [1, 3, 2, 0x12, 0x34]);
        assert_eq!(spoil(&[1]), [1, 3, 6, 0x12, 0x34, 0x56, 0x78, 0x77, 0x77]);
        assert_eq!(spoil(&[-1, 2]), spoil(&[1]));
    }
}
