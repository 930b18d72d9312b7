//! Names of types in other tools that are not ours: what to write instead. Pure.

/// Names of IEC 61131, ESPHome, Telegraf, wb-mqtt-serial and C, without case and with dashes; ours,
/// and what to add.
const OTHERS: &[(&str, &str)] = &[
    ("boolean", "`bool`"),
    ("byte", "`u8`"),
    ("char", "`string`"),
    ("char8", "`string`"),
    ("dint", "`i32`"),
    ("fixed", "`i16` or `i32`, with `scale:`"),
    ("float32-ieee", "`f32`"),
    ("float64-ieee", "`f64`"),
    ("fp32", "`f32`"),
    ("fp32-r", "`f32` with `byte_order: CDAB`"),
    ("int", "`i16` or `i32`: say how many bits it has"),
    ("int16-t", "`i16`"),
    ("int32-t", "`i32`"),
    ("int64-t", "`i64`"),
    ("integer", "`i16` or `i32`: say how many bits it has"),
    ("lint", "`i64`"),
    ("lword", "`u64`"),
    (
        "number",
        "`u16`, `i16`, `f32` or another one that says how many bits it has",
    ),
    ("s-dword", "`i32`"),
    ("s-dword-r", "`i32` with `byte_order: CDAB`"),
    ("s-qword", "`i64`"),
    ("s-qword-r", "`i64` with `byte_order: CDAB`"),
    ("s-word", "`i16`"),
    ("signed", "`i16` or `i32`: say how many bits it has"),
    ("single", "`f32`"),
    ("sint", "`i8`"),
    ("u-dword", "`u32`"),
    ("u-dword-r", "`u32` with `byte_order: CDAB`"),
    ("u-qword", "`u64`"),
    ("u-qword-r", "`u64` with `byte_order: CDAB`"),
    ("u-word", "`u16`"),
    ("udint", "`u32`"),
    ("ufixed", "`u16` or `u32`, with `scale:`"),
    ("uint", "`u16` or `u32`: say how many bits it has"),
    ("uint16-t", "`u16`"),
    ("uint32-t", "`u32`"),
    ("uint64-t", "`u64`"),
    ("uint8-t", "`u8`"),
    ("ulint", "`u64`"),
    ("ulong", "`u32`"),
    ("unsigned", "`u16` or `u32`: say how many bits it has"),
    ("ushort", "`u16`"),
    ("usint", "`u8`"),
];

/// The type to write for one of another tool; `typed` in small letters with dashes.
pub(super) fn meant(typed: &str) -> Option<&'static str> {
    OTHERS
        .iter()
        .find(|(name, _)| *name == typed)
        .map(|(_, ours)| *ours)
}

#[cfg(test)]
mod tests {
    use super::super::DataType;
    use super::*;

    #[test]
    fn types_of_other_tools_are_translated() {
        assert!(OTHERS.is_sorted());
        for (name, ours) in OTHERS {
            let error = name.to_ascii_uppercase().parse::<DataType>().unwrap_err();
            assert!(
                error.ends_with(&format!("in wellhead this is {ours}")),
                "{error}"
            );
            // Each name of ours in the advice is one.
            for quoted in ours
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|quoted| !quoted.contains(':') && *quoted != "byte_order")
            {
                assert!(quoted.parse::<DataType>().is_ok(), "{quoted}");
            }
        }
        assert!(
            "DINT"
                .parse::<DataType>()
                .unwrap_err()
                .starts_with("\"DINT\" is not possible here; in wellhead this is `i32`")
        );
    }
}
