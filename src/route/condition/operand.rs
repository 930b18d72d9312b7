//! What conditions calculate with: values that may be unknown, and the operators between them.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use exmex::{BinOp, MakeOperators, MatchLiteral, Operator};

/// A value in a condition.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Operand {
    #[default]
    Unknown,
    Bool(bool),
    Number(f64),
    Text(Arc<str>),
}

impl FromStr for Operand {
    type Err = Infallible;

    /// A literal, as [`Literals`] finds it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ => match text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'))
            {
                Some(text) => Self::Text(text.into()),
                None => text.parse().map_or(Self::Unknown, Self::Number),
            },
        })
    }
}

/// Finds numbers, texts in double quotes, `true` and `false`.
#[derive(Debug, Clone)]
pub(super) struct Literals;

impl MatchLiteral for Literals {
    fn is_literal(text: &str) -> Option<&str> {
        if let Some(behind) = text.strip_prefix('"') {
            return text.get(..behind.find('"')? + 2);
        }
        for word in ["true", "false"] {
            if text.starts_with(word) {
                return Some(word);
            }
        }
        let end = text
            .find(|sign: char| !sign.is_ascii_digit() && sign != '.')
            .unwrap_or(text.len());
        text.get(..end).filter(|number| !number.is_empty())
    }
}

fn both(a: Operand, b: Operand) -> Operand {
    match (a, b) {
        (Operand::Bool(false), _) | (_, Operand::Bool(false)) => Operand::Bool(false),
        (Operand::Bool(true), Operand::Bool(true)) => Operand::Bool(true),
        _ => Operand::Unknown,
    }
}

fn either(a: Operand, b: Operand) -> Operand {
    match (a, b) {
        (Operand::Bool(true), _) | (_, Operand::Bool(true)) => Operand::Bool(true),
        (Operand::Bool(false), Operand::Bool(false)) => Operand::Bool(false),
        _ => Operand::Unknown,
    }
}

/// Things of different kinds are not equal, and in no order.
fn equal(a: Operand, b: Operand) -> Operand {
    if a == Operand::Unknown || b == Operand::Unknown {
        return Operand::Unknown;
    }
    Operand::Bool(a == b)
}

fn differ(a: Operand, b: Operand) -> Operand {
    deny(equal(a, b))
}

fn ordered(a: &Operand, b: &Operand, is_so: fn(Ordering) -> bool) -> Operand {
    let order = match (a, b) {
        (Operand::Number(a), Operand::Number(b)) => a.partial_cmp(b),
        (Operand::Text(a), Operand::Text(b)) => Some(a.cmp(b)),
        _ => None,
    };
    order.map_or(Operand::Unknown, |order| Operand::Bool(is_so(order)))
}

fn contains(a: Operand, b: Operand) -> Operand {
    match (a, b) {
        (Operand::Text(a), Operand::Text(b)) => Operand::Bool(a.contains(&*b)),
        _ => Operand::Unknown,
    }
}

fn deny(a: Operand) -> Operand {
    match a {
        Operand::Bool(a) => Operand::Bool(!a),
        _ => Operand::Unknown,
    }
}

fn known(a: Operand) -> Operand {
    Operand::Bool(a != Operand::Unknown)
}

/// A number that is none, such as a quotient by zero, is unknown.
fn calculated(a: &Operand, b: &Operand, calculate: fn(f64, f64) -> f64) -> Operand {
    match (a, b) {
        (Operand::Number(a), Operand::Number(b)) => Some(calculate(*a, *b))
            .filter(|number| number.is_finite())
            .map_or(Operand::Unknown, Operand::Number),
        _ => Operand::Unknown,
    }
}

fn negative(a: Operand) -> Operand {
    match a {
        Operand::Number(a) => Operand::Number(-a),
        _ => Operand::Unknown,
    }
}

fn binary<'a>(
    sign: &'a str,
    prio: i64,
    apply: fn(Operand, Operand) -> Operand,
) -> Operator<'a, Operand> {
    let operation = BinOp {
        apply,
        prio,
        is_commutative: false,
    };
    Operator::make_bin(sign, operation)
}

fn comparisons<'a>() -> [Operator<'a, Operand>; 7] {
    [
        binary("==", 2, equal),
        binary("!=", 2, differ),
        binary("<", 2, |a, b| ordered(&a, &b, Ordering::is_lt)),
        binary("<=", 2, |a, b| ordered(&a, &b, Ordering::is_le)),
        binary(">", 2, |a, b| ordered(&a, &b, Ordering::is_gt)),
        binary(">=", 2, |a, b| ordered(&a, &b, Ordering::is_ge)),
        binary("contains", 2, contains),
    ]
}

fn arithmetic<'a>() -> [Operator<'a, Operand>; 5] {
    let minus = BinOp {
        apply: |a, b| calculated(&a, &b, |a, b| a - b),
        prio: 3,
        is_commutative: false,
    };
    [
        binary("+", 3, |a, b| calculated(&a, &b, |a, b| a + b)),
        Operator::make_bin_unary("-", minus, negative),
        binary("*", 4, |a, b| calculated(&a, &b, |a, b| a * b)),
        binary("/", 4, |a, b| calculated(&a, &b, |a, b| a / b)),
        binary("%", 4, |a, b| calculated(&a, &b, |a, b| a % b)),
    ]
}

/// The operators, as [`super::syntax::translate`] writes them.
#[derive(Debug, Clone)]
pub(super) struct Operators;

impl MakeOperators<Operand> for Operators {
    fn make<'a>() -> Vec<Operator<'a, Operand>> {
        let logic = [
            binary("||", 0, either),
            binary("&&", 1, both),
            Operator::make_unary("!", deny),
            Operator::make_unary("known", known),
        ];
        let all = logic.into_iter().chain(comparisons());
        all.chain(arithmetic()).collect()
    }
}
