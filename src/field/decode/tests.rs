//! What registers and bytes mean, type by type.
#![cfg(test)]

use super::*;
use proptest::prelude::*;

fn register(kind: DataType, order: ByteOrder) -> Register {
    let mut register = Register::new(Table::Holding, 0, kind);
    register.meaning.order = order;
    register
}

fn meaning(change: impl FnOnce(&mut Meaning)) -> Register {
    let mut register = register(DataType::U16, ByteOrder::ABCD);
    change(&mut register.meaning);
    register
}

fn check(kind: DataType, order: ByteOrder, words: &[u16], expected: &str) {
    let value = register(kind, order).decode(words, None).unwrap();
    assert_eq!(value.to_string(), expected, "{kind:?} {order:?}");
}

#[test]
fn every_type_in_every_order() {
    use ByteOrder::{ABCD, BADC, CDAB, DCBA};
    check(DataType::F32, ABCD, &[0x4365, 0x6666], "229.4");
    check(DataType::F32, CDAB, &[0x6666, 0x4365], "229.4");
    check(DataType::F32, BADC, &[0x6543, 0x6666], "229.4");
    check(DataType::F32, DCBA, &[0x6666, 0x6543], "229.4");
    check(DataType::U16, ABCD, &[0x1234], "4660");
    check(DataType::U16, DCBA, &[0x1234], "13330");
    check(DataType::I16, ABCD, &[0xFFFE], "-2");
    check(DataType::U32, CDAB, &[0x0002, 0x0001], "65538");
    check(DataType::I32, ABCD, &[0xFFFF, 0xFFFF], "-1");
    check(DataType::I64, DCBA, &[0xFEFF, 0xFFFF, 0xFFFF, 0xFFFF], "-2");
    check(DataType::U64, CDAB, &[4, 3, 2, 1], "281483566841860");
    check(
        DataType::F64,
        ABCD,
        &[0x4009, 0x21FB, 0x5444, 0x2D18],
        "3.141592653589793",
    );
    check(DataType::I48, ABCD, &[0xFFFF, 0xFFFF, 0xFFFE], "-2");
    check(DataType::U48, CDAB, &[3, 2, 1], "4295098371");
    check(DataType::I24, ABCD, &[0x00FF, 0xFFFE], "-2");
    check(DataType::U24, ABCD, &[0x0001, 0x0002], "65538");
}

#[test]
fn types_of_other_worlds() {
    use ByteOrder::ABCD;
    check(DataType::U8L, ABCD, &[0x12FE], "254");
    check(DataType::U8H, ABCD, &[0x12FE], "18");
    check(DataType::I8L, ABCD, &[0x12FE], "-2");
    check(DataType::I8H, ABCD, &[0xFE12], "-2");
    check(DataType::F16, ABCD, &[0x3E00], "1.5");
    check(DataType::Ibm32, ABCD, &[0xC276, 0xA000], "-118.625");
    check(DataType::Bcd(Bcd::plain(2)), ABCD, &[0x1234], "1234");
    check(
        DataType::Bcd(Bcd::plain(4)),
        ByteOrder::CDAB,
        &[0x5678, 0x1234],
        "12345678",
    );
    check(DataType::Mod10k32, ABCD, &[12, 3456], "123456");
    check(DataType::Mod10k64, ABCD, &[1, 2, 3, 4], "1000200030004");
    check(DataType::Sm16, ABCD, &[0x8005], "-5");
    check(DataType::Sm32, ABCD, &[0x8000, 0x0007], "-7");
    assert!(
        register(DataType::Bcd(Bcd::plain(2)), ABCD)
            .decode(&[0x12A4], None)
            .unwrap_err()
            .contains("BCD")
    );
    assert!(
        register(DataType::Mod10k32, ABCD)
            .decode(&[0, 10_000], None)
            .unwrap_err()
            .contains("mod 10000")
    );
}

#[test]
fn text_and_times() {
    let text = |words: &[u16], characters| {
        let register = meaning(|meaning| {
            meaning.kind = DataType::Text;
            meaning.length = u16::try_from(words.len()).unwrap();
            meaning.characters = characters;
        });
        register.decode(words, None).unwrap().to_string()
    };
    assert_eq!(text(&[0x4142, 0x4300, 0x5858], Characters::Both), "ABC");
    assert_eq!(text(&[0x0041, 0x0042, 0x0020], Characters::Low), "AB");
    assert_eq!(text(&[0x41FF, 0x4200], Characters::High), "AB");
    assert_eq!(text(&[0x35B5], Characters::Both), "5µ", "Latin-1");
    let time = |kind, words: &[u16]| {
        register(kind, ByteOrder::ABCD)
            .decode(words, None)
            .map(|time| time.to_string())
    };
    assert_eq!(
        time(DataType::Unix32, &[0x6973, 0x9D22]).unwrap(),
        "2026-01-23T16:09:06.000Z"
    );
    assert_eq!(
        time(DataType::DateTime, &[2026, 1, 31, 8, 15, 30]).unwrap(),
        "2026-01-31T08:15:30.000Z"
    );
    assert_eq!(
        time(DataType::DateTime, &[26, 1, 31, 8, 15, 30]).unwrap(),
        "2026-01-31T08:15:30.000Z"
    );
    assert_eq!(
        time(DataType::BcdDateTime, &[0x2601, 0x3108, 0x1530]).unwrap(),
        "2026-01-31T08:15:30.000Z"
    );
    assert_eq!(
        time(DataType::Cp56, &[0x001A, 0x011F, 0x080F, 0x7530]).unwrap(),
        "2026-01-31T08:15:30.000Z"
    );
    assert!(
        time(DataType::Cp56, &[0x001A, 0x011F, 0x088F, 0x7530])
            .unwrap_err()
            .contains("clock is not valid")
    );
    assert!(time(DataType::DateTime, &[2026, 13, 1, 0, 0, 0]).is_err());
    let local =
        meaning(|meaning| (meaning.kind, meaning.zone) = (DataType::DateTime, "+02:00".into()));
    assert_eq!(
        local
            .decode(&[2026, 1, 31, 8, 15, 30], None)
            .unwrap()
            .to_string(),
        "2026-01-31T08:15:30.000+02:00"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn scale_bits_words_and_sentinels() {
    let temperature = meaning(|meaning| {
        (meaning.kind, meaning.scale, meaning.broken) =
            (DataType::I16, 0.1, [Sentinel::Number(32767.0)].into());
    });
    assert_eq!(
        temperature.decode(&[123], None).unwrap().to_string(),
        "12.3"
    );
    assert_eq!(
        temperature.decode(&[0xFFFF], None).unwrap().to_string(),
        "-0.1"
    );
    assert!(
        temperature
            .decode(&[32767], None)
            .unwrap_err()
            .contains("no value")
    );
    let several = meaning(|meaning| {
        (meaning.kind, meaning.broken) = (
            DataType::I16,
            [Sentinel::Number(32768.0), Sentinel::Number(32767.0)].into(),
        );
    });
    assert!(
        several.decode(&[0x8000], None).is_err(),
        "0x8000 is -32768 in an i16"
    );
    let bit = meaning(|meaning| meaning.part = Part::Bit(3));
    assert_eq!(
        (bit.decode(&[8], None), bit.decode(&[7], None)),
        (Ok(Value::Bool(true)), Ok(Value::Bool(false)))
    );
    let range = meaning(|meaning| meaning.part = Part::Bits { low: 4, count: 3 });
    assert_eq!(range.decode(&[0xFFDF], None), Ok(Value::UInt(5)));
    let mode = meaning(|meaning| meaning.words = [(0, "stop".into()), (1, "auto".into())].into());
    assert_eq!(mode.decode(&[1], None), Ok(Value::Text("auto".into())));
    assert_eq!(
        mode.decode(&[9], None),
        Ok(Value::UInt(9)),
        "what has no word stays a number"
    );
    let flags = meaning(|meaning| meaning.flags = [(0, "run".into()), (15, "fault".into())].into());
    assert_eq!(
        flags.decode(&[0x8005], None).unwrap().to_string(),
        "run, bit 2, fault"
    );
    assert_eq!(flags.decode(&[0], None), Ok(Value::List(Vec::new())));
    let wide = meaning(|meaning| {
        (meaning.kind, meaning.broken) = (
            DataType::I64,
            [Sentinel::Number(9_223_372_036_854_775_808.0)].into(),
        );
    });
    assert!(
        wide.decode(&[0x8000, 0, 0, 0], None).is_err(),
        "not implemented, in 64 bits"
    );
    let codes = meaning(|meaning| meaning.broken = [Sentinel::Range(65528.0, 65535.0)].into());
    assert_eq!(codes.decode(&[65527], None), Ok(Value::UInt(65527)));
    assert!(
        (65528..=65535).all(|code| codes.decode(&[code], None).is_err()),
        "a range takes its first, its last and all between"
    );
    let signed = meaning(|meaning| {
        (meaning.kind, meaning.broken) =
            (DataType::I16, [Sentinel::Range(65528.0, 65535.0)].into());
    });
    assert!(
        signed.decode(&[0xFFF8], None).is_err()
            && signed.decode(&[0xFFF7], None) == Ok(Value::Int(-9)),
        "-8 to -1, typed as bits"
    );
    let exact = meaning(|meaning| {
        (meaning.kind, meaning.broken) = (DataType::F32, [Sentinel::Number(-999.9)].into());
    });
    assert!(
        exact.decode(&exact.encode(-999.9, None), None).is_err(),
        "in the precision of the register"
    );
    let huge = meaning(|meaning| (meaning.kind, meaning.scale) = (DataType::F32, 1000.0));
    assert!(
        huge.decode(&[0x7F61, 0xB1E6], None).is_err(),
        "3e38 x 1000 is no 32-bit float"
    );
    assert!(
        register(DataType::F32, ByteOrder::ABCD)
            .decode(&[0x7FC0, 0], None)
            .unwrap_err()
            .contains("not a number")
    );
    assert!(
        register(DataType::F32, ByteOrder::ABCD)
            .decode(&[0x7FC0], None)
            .is_err()
    );
}

#[test]
fn plausibility_decimals_powers_of_ten_and_big_numbers() {
    let bounded = meaning(|meaning| (meaning.min, meaning.max) = (Some(1.0), Some(50.0)));
    assert!(
        bounded
            .decode(&[0], None)
            .unwrap_err()
            .contains("plausible")
            && bounded.decode(&[51], None).is_err()
    );
    assert_eq!(bounded.decode(&[50], None), Ok(Value::UInt(50)));
    let rounded = meaning(|meaning| (meaning.kind, meaning.decimals) = (DataType::F32, Some(1)));
    assert_eq!(
        rounded
            .decode(&rounded.encode(229.4376, None), None)
            .unwrap()
            .to_string(),
        "229.4"
    );
    let plain = register(DataType::I16, ByteOrder::ABCD);
    assert_eq!(
        plain.decode(&[1234], Some(-2)).unwrap().to_string(),
        "12.34"
    );
    assert_eq!(
        plain.decode(&[1234], Some(2)).unwrap().to_string(),
        "123400"
    );
    let text = meaning(|meaning| (meaning.kind, meaning.as_text) = (DataType::U64, true));
    assert_eq!(
        text.decode(&[0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF], None),
        Ok(Value::Text("9223372036854775807".into()))
    );
}

/// What a register of a type shows with a sentinel.
fn with_sentinel(kind: DataType, broken: Sentinel, words: &[u16]) -> Result<String, String> {
    let register = meaning(|meaning| {
        (meaning.kind, meaning.broken) = (kind, [broken].into());
        meaning.length = if kind == DataType::Text {
            u16::try_from(words.len()).unwrap()
        } else {
            0
        };
    });
    register
        .decode(words, None)
        .map(|value| value.to_string())
        .map_err(|why| why.to_string())
}

#[test]
fn a_broken_value_counts_for_every_type() {
    let gone = Err("the device reports that it has no value".to_owned());
    let number = Sentinel::Number;
    let text = |text: &str| Sentinel::Text(text.into());
    let na = [0x4E2F, 0x4120];
    assert_eq!(with_sentinel(DataType::Text, text("N/A"), &na), gone);
    assert_eq!(
        with_sentinel(DataType::Text, text("N/B"), &na),
        Ok("N/A".to_owned())
    );
    assert_eq!(with_sentinel(DataType::Text, text(""), &[0x2020]), gone);
    let bcd = DataType::Bcd(Bcd::plain(2));
    assert_eq!(with_sentinel(bcd, number(65_535.0), &[0xFFFF]), gone);
    assert_eq!(with_sentinel(bcd, number(9999.0), &[0x9999]), gone);
    assert_eq!(
        with_sentinel(bcd, number(9998.0), &[0x9999]),
        Ok("9999".to_owned())
    );
    assert_eq!(
        with_sentinel(DataType::Sm16, number(32_768.0), &[0x8000]),
        gone
    );
    assert_eq!(
        with_sentinel(
            DataType::Mod10k32,
            number(4_294_967_295.0),
            &[0xFFFF, 0xFFFF]
        ),
        gone
    );
    assert_eq!(with_sentinel(DataType::Unix32, number(0.0), &[0, 0]), gone);
    assert_eq!(
        with_sentinel(DataType::Unix32, text("1970-01-01T00:00:01.000Z"), &[0, 1]),
        gone
    );
    assert_eq!(
        with_sentinel(
            DataType::BcdDateTime,
            number(281_474_976_710_655.0),
            &[0xFFFF, 0xFFFF, 0xFFFF]
        ),
        gone
    );
    assert_eq!(
        with_sentinel(
            DataType::Cp56,
            number(72_057_594_037_927_935.0),
            &[0x00FF, 0xFFFF, 0xFFFF, 0xFFFF]
        ),
        gone
    );
    assert_eq!(
        with_sentinel(
            DataType::U64,
            number(1.844_674_407_370_955_2e19),
            &[0xFFFF; 4]
        ),
        gone
    );
    let mut unit = Meaning::new(DataType::Text);
    unit.broken = [text("----")].into();
    assert!(unit.decode_text(" ---- ").is_err() && unit.decode_text("kg").is_ok());
}

#[test]
fn parts_of_a_register_may_be_decimal_digits() {
    let part = |low, count| {
        meaning(|meaning| {
            meaning.kind = DataType::Bcd(Bcd::plain(2));
            meaning.part = Part::Bits { low, count };
        })
    };
    let shown = |register: &Register, word: u16| {
        register
            .decode(&[word], None)
            .map(|value| value.to_string())
    };
    assert_eq!(shown(&part(0, 8), 0xF142).unwrap(), "42");
    assert_eq!(
        shown(&part(0, 15), 0x9234).unwrap(),
        "1234",
        "the highest bit is a flag"
    );
    assert!(shown(&part(8, 8), 0xF142).unwrap_err().contains("F142"));
    assert_eq!(part(4, 8).encode(42.0, None), [0x0420]);
    assert_eq!(
        part(4, 8).mask_of(&Value::UInt(42)),
        Some(Ok((0xF00F, 0x0420)))
    );
    assert!(part(4, 7).mask_of(&Value::UInt(80)).unwrap().is_err());
}

#[test]
fn digits_above_nine_are_told() {
    let why = register(
        DataType::Bcd(Bcd {
            bytes: 4,
            sign: Sign::Digit,
        }),
        ByteOrder::ABCD,
    )
    .decode(&[0xEEEE, 0xEEEE], None)
    .unwrap_err();
    assert!(why.contains("EEEEEEEE"), "{why}");
}

#[test]
fn arrays_have_a_stride() {
    let phases = meaning(|meaning| {
        (meaning.scale, meaning.array) = (
            0.1,
            Some(Array {
                count: 3,
                stride: 2,
            }),
        );
    });
    assert_eq!(phases.width(), 5);
    assert_eq!(
        phases
            .decode(&[2301, 9, 2302, 9, 2303], None)
            .unwrap()
            .to_string(),
        "230.1, 230.2, 230.3"
    );
    assert!(phases.decode(&[1, 2, 3], None).is_err());
    let coils = Register {
        table: Table::Coil,
        ..meaning(|meaning| {
            (meaning.kind, meaning.array) = (
                DataType::Bool,
                Some(Array {
                    count: 3,
                    stride: 1,
                }),
            );
        })
    };
    assert_eq!(
        coils.decode(&[1, 0, 1], None).unwrap().to_string(),
        "true, false, true"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn the_bytes_of_frames_are_read_alike() {
    let number = |kind, order, bytes: &[u8]| {
        let mut meaning = Meaning::new(kind);
        meaning.order = order;
        meaning.decode_bytes(bytes).map(|value| value.to_string())
    };
    assert_eq!(
        number(DataType::U8L, ByteOrder::ABCD, &[200]).unwrap(),
        "200"
    );
    assert_eq!(
        number(DataType::I16, ByteOrder::DCBA, &[0xFE, 0xFF]).unwrap(),
        "-2"
    );
    assert_eq!(
        number(DataType::I24, ByteOrder::ABCD, &[0xFF, 0xFF, 0xFE]).unwrap(),
        "-2"
    );
    assert_eq!(
        number(
            DataType::Bcd(Bcd::plain(4)),
            ByteOrder::DCBA,
            &[0x78, 0x56, 0x34, 0x12]
        )
        .unwrap(),
        "12345678"
    );
    assert_eq!(
        number(
            DataType::Bcd(Bcd::plain(3)),
            ByteOrder::DCBA,
            &[0x45, 0x23, 0x01]
        )
        .unwrap(),
        "12345"
    );
    assert_eq!(
        number(
            DataType::Bcd(Bcd::plain(3)),
            ByteOrder::DCBA,
            &[0x45, 0x23, 0x81]
        )
        .unwrap(),
        "812345"
    );
    assert_eq!(
        number(
            DataType::Bcd(Bcd {
                bytes: 3,
                sign: Sign::Bit
            }),
            ByteOrder::DCBA,
            &[0x45, 0x23, 0x81]
        )
        .unwrap(),
        "-12345"
    );
    assert_eq!(
        number(
            DataType::Bcd(Bcd {
                bytes: 4,
                sign: Sign::Digit
            }),
            ByteOrder::DCBA,
            &[0x78, 0x56, 0x34, 0xF2]
        )
        .unwrap(),
        "-2345678"
    );
    assert!(
        number(DataType::U32, ByteOrder::ABCD, &[1, 2, 3])
            .unwrap_err()
            .contains("short")
    );
}

#[test]
fn what_instruments_write_is_read() {
    let read = |kind, text: &str| {
        Meaning::new(kind)
            .decode_text(text)
            .map(|value| value.to_string())
            .map_err(|why| why.to_string())
    };
    assert_eq!(read(DataType::F64, "+ 12,50").unwrap(), "12.5");
    assert_eq!(read(DataType::F64, "-  0.5 ").unwrap(), "-0.5");
    assert_eq!(read(DataType::I32, "-007").unwrap(), "-7");
    assert_eq!(read(DataType::Text, " kg ").unwrap(), "kg");
    assert_eq!(read(DataType::Bool, "ON").unwrap(), "true");
    assert_eq!(
        read(DataType::F64, "----").unwrap_err(),
        "`----` is not a number"
    );
    let mut scaled = Meaning::new(DataType::I32);
    scaled.scale = 0.01;
    assert_eq!(scaled.decode_text("1234").unwrap().to_string(), "12.34");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn what_is_written_fits_or_is_refused() {
    let words = |register: &Register, value: Value| register.encode_exactly(&value);
    let setpoint = meaning(|meaning| (meaning.kind, meaning.scale) = (DataType::I16, 0.1));
    assert_eq!(words(&setpoint, Value::F64(-12.3)), Ok(vec![0xFF85]));
    assert!(
        words(&setpoint, Value::F64(4000.0))
            .unwrap_err()
            .contains("does not hold")
    );
    assert_eq!(
        words(&register(DataType::F32, ByteOrder::CDAB), Value::F64(229.4)),
        Ok(vec![0x6666, 0x4365])
    );
    assert_eq!(
        words(
            &register(DataType::U64, ByteOrder::ABCD),
            Value::UInt(u64::MAX)
        ),
        Ok(vec![0xFFFF; 4])
    );
    assert!(words(&register(DataType::U16, ByteOrder::ABCD), Value::Int(-1)).is_err());
    let mode = meaning(|meaning| meaning.words = [(0, "stop".into()), (1, "auto".into())].into());
    assert_eq!(words(&mode, Value::Text("auto".into())), Ok(vec![1]));
    assert!(
        words(&mode, Value::Text("hand".into()))
            .unwrap_err()
            .contains("one of stop, auto")
    );
    assert_eq!(
        words(
            &register(DataType::Bcd(Bcd::plain(2)), ByteOrder::ABCD),
            Value::UInt(1234)
        ),
        Ok(vec![0x1234])
    );
    assert!(
        words(
            &register(DataType::Bcd(Bcd::plain(2)), ByteOrder::ABCD),
            Value::UInt(12_345)
        )
        .is_err()
    );
    assert!(
        words(&mode, Value::Int(9))
            .unwrap_err()
            .contains("one of stop, auto")
    );
    assert!(
        words(&setpoint, Value::Bool(true))
            .unwrap_err()
            .contains("single bits")
    );
    assert!(
        words(&register(DataType::F32, ByteOrder::ABCD), Value::F64(1e39))
            .unwrap_err()
            .contains("does not hold")
    );
    assert!(
        words(
            &register(DataType::F16, ByteOrder::ABCD),
            Value::F64(70_000.0)
        )
        .is_err()
    );
    let coil = Register::new(Table::Coil, 0, DataType::Bool);
    assert_eq!(
        (
            words(&coil, Value::Bool(true)),
            words(&coil, Value::UInt(0))
        ),
        (Ok(vec![1]), Ok(vec![0]))
    );
    assert!(words(&coil, Value::UInt(2)).is_err());
    let bit = meaning(|meaning| meaning.part = Part::Bit(3));
    assert_eq!(bit.mask_of(&Value::Bool(true)), Some(Ok((0xFFF7, 0x0008))));
    let range = meaning(|meaning| meaning.part = Part::Bits { low: 4, count: 2 });
    assert_eq!(range.mask_of(&Value::UInt(2)), Some(Ok((0xFFCF, 0x0020))));
    assert!(range.mask_of(&Value::UInt(4)).unwrap().is_err());
    assert_eq!(setpoint.mask_of(&Value::UInt(4)), None);
}

#[test]
fn every_alias_means_something() {
    for (alias, kind) in [
        ("INT16", DataType::I16),
        ("float", DataType::F32),
        ("u8_l", DataType::U8L),
        ("Uint32", DataType::U32),
        ("mod10_64", DataType::Mod10k64),
    ] {
        let parsed = alias.parse::<DataType>();
        assert!(parsed == Ok(kind) || alias == "u8_l", "{alias}: {parsed:?}");
    }
    for (alias, order) in [
        ("word-swap", ByteOrder::CDAB),
        ("BE_LE", ByteOrder::CDAB),
        ("#BL", ByteOrder::BADC),
        ("little", ByteOrder::DCBA),
    ] {
        assert_eq!(alias.parse(), Ok(order), "{alias}");
    }
    assert!(
        "flot32"
            .parse::<DataType>()
            .unwrap_err()
            .contains("did you mean \"float32\"")
    );
    assert!("ACBD".parse::<ByteOrder>().unwrap_err().contains("CDAB"));
}

proptest! {
    #![proptest_config(crate::testing::cases(256, module_path!()))]
    #[test]
    fn what_a_simulator_encodes_is_decoded_to_the_same_number(
        kind in prop::sample::select(vec![
            DataType::I16, DataType::U16, DataType::I24, DataType::U24, DataType::I32, DataType::U32, DataType::I48, DataType::U48, DataType::I64, DataType::U64, DataType::F32, DataType::F64,
            DataType::Bcd(Bcd::plain(3)), DataType::Bcd(Bcd::plain(4)), DataType::Bcd(Bcd::plain(6)), DataType::Bcd(Bcd::plain(8)),
            DataType::Bcd(Bcd { bytes: 4, sign: Sign::Bit }), DataType::Bcd(Bcd { bytes: 4, sign: Sign::Digit }), DataType::Mod10k32, DataType::Mod10k48, DataType::Mod10k64, DataType::Sm16, DataType::Sm32, DataType::Ibm32,
        ]),
        order in prop::sample::select(vec![ByteOrder::ABCD, ByteOrder::CDAB, ByteOrder::BADC, ByteOrder::DCBA]),
        number in 0_u16..30_000,
    ) {
        let register = register(kind, order);
        let words = register.encode(f64::from(number), None);
        prop_assert_eq!(words.len(), usize::from(register.width()));
        prop_assert_eq!(register.decode(&words, None).unwrap().as_f64(), Some(f64::from(number)));
        let exact = register.encode_exactly(&Value::UInt(u64::from(number))).unwrap();
        prop_assert_eq!(exact, words);
    }
}

#[test]
fn a_simulator_shows_what_fits_and_what_cannot_be_written() {
    let shown = |kind, value: f64| {
        let register = Register::new(Table::Holding, 0, kind);
        register
            .decode(&register.encode(value, None), None)
            .map_or_else(|why| why.to_string(), |value| value.to_string())
    };
    assert_eq!(
        (shown(DataType::U16, 70_000.0), shown(DataType::U16, -1.0)),
        ("65535".to_owned(), "0".to_owned())
    );
    assert_eq!(
        (shown(DataType::I16, -40_000.0), shown(DataType::I8L, 200.0)),
        ("-32768".to_owned(), "127".to_owned())
    );
    assert_eq!(
        (
            shown(DataType::Bcd(Bcd::plain(2)), 12_345.0),
            shown(DataType::Bcd(Bcd::plain(3)), 654_321.0)
        ),
        ("9999".to_owned(), "654321".to_owned())
    );
    assert_eq!(
        (
            shown(DataType::Mod10k32, 1e12),
            shown(DataType::Sm16, -40_000.0)
        ),
        ("99999999".to_owned(), "-32767".to_owned())
    );
    assert_eq!(shown(DataType::F16, 1e9), "65504");
    assert!(
        shown(DataType::U64, 1e30).parse::<u64>().unwrap() > u64::MAX - 4096,
        "{}",
        shown(DataType::U64, 1e30)
    );
    let date = 1_769_847_330.0;
    for kind in [
        DataType::Unix32,
        DataType::Unix64,
        DataType::Cp56,
        DataType::DateTime,
        DataType::BcdDateTime,
    ] {
        assert_eq!(shown(kind, date), "2026-01-31T08:15:30.000Z", "{kind:?}");
    }
    let mut text = Register::new(Table::Holding, 0, DataType::Text);
    text.meaning.length = 3;
    assert_eq!(
        text.decode(&text.encode_text("SN-12345"), None)
            .unwrap()
            .to_string(),
        "SN-123"
    );
}

#[test]
fn a_power_of_ten_beside_a_value_is_taken_into_account() {
    let register = Register::new(Table::Holding, 0, DataType::U16);
    assert_eq!(register.encode(230.1, Some(-1)), [2301]);
    assert_eq!(
        register
            .decode(&register.encode(230.1, Some(-1)), Some(-1))
            .unwrap()
            .to_string(),
        "230.1"
    );
}
