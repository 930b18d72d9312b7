//! Numbers with a fixed count of digits after the point, as integers. Pure.

/// Most digits after the point.
pub(super) const MOST_DIGITS: u8 = 9;
/// Integers up to this are the same numbers in every language, and so are differences of their
/// differences.
const LARGEST: f64 = (1_u64 << 51) as f64;

/// A number in units of its last digit; `None` if that is not the same number bit for bit.
pub(super) fn units(float: f64, digits: u8) -> Option<i64> {
    let units = (float * 10_f64.powi(i32::from(digits))).round();
    if units.is_nan() || units.abs() > LARGEST {
        return None;
    }
    #[allow(clippy::cast_possible_truncation)]
    let units = units as i64;
    (number(units, digits).to_bits() == float.to_bits()).then_some(units)
}

/// The number of so many units of its last digit.
#[allow(clippy::cast_precision_loss)]
pub(super) fn number(units: i64, digits: u8) -> f64 {
    units as f64 / 10_f64.powi(i32::from(digits))
}

/// Numbers in units of a last digit that all have in common, and its digits; `None` if there is
/// none.
pub(super) fn common_units(numbers: &[f64]) -> Option<(u8, Vec<i64>)> {
    let needs = |least: u8, number: &f64| {
        (least..=MOST_DIGITS).find(|digits| units(*number, *digits).is_some())
    };
    let digits = numbers.iter().try_fold(0, needs)?;
    let all = numbers.iter().map(|number| units(*number, digits));
    Some((digits, all.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_all_of_them_need() {
        assert_eq!(
            common_units(&[12.0, 0.25, -3.5]),
            Some((2, vec![1200, 25, -350]))
        );
        assert_eq!(common_units(&[1e9, 1e-9]), None);
        for none in [
            f64::NAN,
            f64::INFINITY,
            -0.0,
            0.1 + 0.2,
            1e300,
            2.0_f64.powi(52),
        ] {
            assert_eq!(common_units(&[1.5, none]), None, "{none}");
        }
    }
}
