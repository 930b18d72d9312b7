//! Settings without an effect: each is a fault with its place and its remedy, so that no setting is
//! silently ignored.

use super::context::{DeviceContext, PointCheck};
use super::{Check, at};
use crate::config::file::{self, BitOrder};
use crate::field::decode::{ByteOrder, DataType};
use crate::field::modbus::request::Function;
use crate::report::aggregate::Show;

/// The origin of a value, as far as it decides which settings have an effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ValueShape {
    /// By a wave alone.
    Made,
    /// Other points.
    Computed,
    /// A value of a meter.
    Metered,
    /// Text of an instrument.
    Written(DataType),
    /// Bytes of a frame.
    Bytes(DataType),
    /// None: a command without a value.
    Ordered,
    /// A coil or a discrete input.
    Coil,
    /// Registers.
    Registers(DataType),
}

/// True if the key is typed; the key; the remedy.
type UnusedSetting = (bool, &'static str, &'static str);

const NO_REGISTER: &str =
    "a simulated value has no register; say where it is, such as `holding: 0`, or remove this";
const COMPUTED: &str =
    "an expression does not have this; remove it, or give it to the points that it uses";
const NO_VALUE: &str =
    "a command without {value} takes no value; remove this, or write {value} into `send`";
const NO_NUMBER: &str = "this needs a number, and the value is text, a list or flags; remove it";

impl PointCheck<'_, '_> {
    /// Notes every setting of the point that does nothing.
    pub(super) fn check_used(&mut self, shape: ValueShape) {
        for (is_typed, key, why) in rows(self.spec, shape) {
            // One fault at a key is enough: a scale without an effect may be noted already.
            if is_typed && !self.check.is_faulty(&self.path(key)) {
                self.fault(key, why);
            }
        }
    }
}

/// All settings that have no effect on a value of this shape.
fn rows(spec: &file::PointConfig, shape: ValueShape) -> Vec<UnusedSetting> {
    match shape {
        ValueShape::Made => nowhere(spec, NO_REGISTER).to_vec(),
        ValueShape::Ordered => nowhere(spec, NO_VALUE).to_vec(),
        ValueShape::Metered => metered(spec),
        ValueShape::Computed => [computed(spec).as_slice(), &nowhere(spec, COMPUTED)].concat(),
        ValueShape::Written(kind) => [
            written(spec).as_slice(),
            &by_kind(spec, kind),
            &by_value(spec, kind),
        ]
        .concat(),
        ValueShape::Bytes(kind) => {
            let characters = "each byte of a frame is one character; remove it";
            let own = [(spec.characters.is_some(), "characters", characters)];
            [own.as_slice(), &by_kind(spec, kind), &by_value(spec, kind)].concat()
        }
        ValueShape::Coil => [
            coil(spec).as_slice(),
            &by_kind(spec, DataType::Bool),
            &by_value(spec, DataType::Bool),
        ]
        .concat(),
        ValueShape::Registers(kind) => [
            by_kind(spec, kind).as_slice(),
            &by_value(spec, kind),
            &writing(spec, kind),
        ]
        .concat(),
    }
}

impl DeviceContext<'_> {
    /// Notes every setting of a device that does nothing, because it has no registers or no address
    /// of its own.
    pub(super) fn check_device_used(&self, check: &mut Check<'_>) {
        let device = self.device;
        let no_registers = if self.is_meter {
            "a meter has no registers; remove it"
        } else {
            "a plain instrument has no registers; remove it"
        };
        let plain: [UnusedSetting; 6] = [
            (device.base.is_some(), "base", no_registers),
            (
                device.identify.is_some(),
                "identify",
                if self.is_meter {
                    "a meter does not know these functions; remove it"
                } else {
                    "a plain instrument does not know these functions; remove it"
                },
            ),
            (
                device.max_registers.is_some(),
                "max_registers",
                no_registers,
            ),
            (device.max_bits.is_some(), "max_bits", no_registers),
            (device.max_hold.is_some(), "max_hold", no_registers),
            (device.holes.is_some(), "holes", no_registers),
        ];
        let modbus: [UnusedSetting; 1] = [(
            device.address.is_some(),
            "address",
            "`address` is for plain instruments; write `unit:` for a Modbus device",
        )];
        let rows = if self.is_text || self.is_meter {
            plain.as_slice()
        } else {
            modbus.as_slice()
        };
        for (_, key, why) in rows.iter().filter(|(is_typed, ..)| *is_typed) {
            check.fault(&at!["devices", self.index, *key], *why);
        }
    }
}

/// Settings of registers, bytes and text that values of meters do not have.
fn metered(spec: &file::PointConfig) -> Vec<UnusedSetting> {
    const METERED: &str = "a meter says itself what its values are; remove it";
    let mut rows = nowhere(spec, METERED).to_vec();
    rows.retain(|(_, key, _)| !matches!(*key, "min" | "max"));
    rows.extend([
        (spec.at.is_some(), "at", METERED),
        (spec.holding.is_some(), "holding", METERED),
        (spec.input.is_some(), "input", METERED),
        (spec.coil.is_some(), "coil", METERED),
        (spec.discrete.is_some(), "discrete", METERED),
        (spec.from.is_some(), "from", METERED),
        (spec.find.is_some(), "find", METERED),
        (spec.byte.is_some(), "byte", METERED),
        (spec.units.is_some(), "units", METERED),
    ]);
    rows
}

/// Settings for registers or bytes.
fn nowhere(spec: &file::PointConfig, why: &'static str) -> [UnusedSetting; 19] {
    [
        (spec.kind.is_some(), "type", why),
        (spec.byte_order.is_some(), "byte_order", why),
        (spec.bit.is_some(), "bit", why),
        (spec.bits.is_some(), "bits", why),
        (spec.mask.is_some(), "mask", why),
        (spec.bit_order.is_some(), "bit_order", why),
        (spec.flags.is_some(), "flags", why),
        (spec.scale.is_some(), "scale", why),
        (spec.offset.is_some(), "offset", why),
        (spec.scale_from.is_some(), "scale_from", why),
        (spec.broken_value.is_some(), "broken_value", why),
        (spec.words.is_some(), "words", why),
        (spec.min.is_some(), "min", why),
        (spec.max.is_some(), "max", why),
        (spec.length.is_some(), "length", why),
        (spec.characters.is_some(), "characters", why),
        (spec.zone.is_some(), "zone", why),
        (spec.array.is_some(), "array", why),
        (spec.as_text.is_some(), "as_text", why),
    ]
}

fn computed(spec: &file::PointConfig) -> [UnusedSetting; 5] {
    [
        (
            spec.every.is_some(),
            "every",
            "it is computed whenever one of its points is read; remove it",
        ),
        (spec.group.is_some(), "group", COMPUTED),
        (spec.stale_after.is_some(), "stale_after", COMPUTED),
        (spec.simulate.is_some(), "simulate", COMPUTED),
        (spec.when.is_some(), "when", COMPUTED),
    ]
}

/// Settings for bytes, of a value that is read from text.
fn written(spec: &file::PointConfig) -> [UnusedSetting; 4] {
    let why =
        "this is for bytes, and the value is read from text; remove it, or read bytes with `byte:`";
    [
        (spec.byte_order.is_some(), "byte_order", why),
        (spec.characters.is_some(), "characters", why),
        (
            spec.length.is_some(),
            "length",
            "the pattern decides how long the text is; remove it",
        ),
        (
            spec.zone.is_some(),
            "zone",
            "text is published as the instrument sends it; remove it",
        ),
    ]
}

fn coil(spec: &file::PointConfig) -> [UnusedSetting; 4] {
    let why = "coils and discrete inputs are single bits; remove it";
    let function = "coils are written by functions 5 and 15; remove it, or write `multiple`";
    [
        (spec.byte_order.is_some(), "byte_order", why),
        (spec.bit_order.is_some(), "bit_order", why),
        (spec.flags.is_some(), "flags", why),
        (
            spec.write
                .as_ref()
                .is_some_and(|write| write.function == Function::Exchange),
            "write",
            function,
        ),
    ]
}

/// Settings that belong to other types.
fn by_kind(spec: &file::PointConfig, kind: DataType) -> [UnusedSetting; 5] {
    let is_swapped = matches!(spec.byte_order, Some(ByteOrder::CDAB | ByteOrder::DCBA));
    let has_bits = spec.bit.is_some() || spec.bits.is_some() || spec.flags.is_some();
    let has_part = spec.bit.is_some() || spec.bits.is_some() || spec.mask.is_some();
    let has_zone = matches!(
        kind,
        DataType::Cp56 | DataType::DateTime | DataType::BcdDateTime
    );
    [
        (
            is_swapped && kind == DataType::Text && spec.byte.is_none(),
            "byte_order",
            "text has no order of words; write BADC if the characters of each register are swapped",
        ),
        (
            spec.bit_order.is_some_and(|order| order != BitOrder::Lsb0) && !has_bits,
            "bit_order",
            "`bit_order` has an effect only on `bit`, `bits` and `flags`; remove it",
        ),
        (
            spec.flags.is_some() && has_part,
            "flags",
            "flags are the bits of the whole register; remove `bit`, `bits` or `mask`",
        ),
        (
            spec.flags.is_some() && spec.words.is_some(),
            "words",
            "the value is the list of its flags; keep either `flags` or `words`",
        ),
        (
            spec.zone.is_some() && !has_zone,
            "zone",
            "only the types cp56, datetime and bcd-datetime have a zone; remove it",
        ),
    ]
}

/// Settings for numbers, where the value is none.
fn by_value(spec: &file::PointConfig, kind: DataType) -> [UnusedSetting; 8] {
    let is_text = kind.is_text() || spec.flags.is_some();
    let is_no_number = is_text || spec.array.is_some() || spec.as_text == Some(true);
    let has_width = spec.deadband.is_some_and(|deadband| match deadband {
        file::DeadbandConfig::Absolute(width) | file::DeadbandConfig::Percent(width) => width > 0.0,
    });
    let needs_numbers = |show: &Show| !matches!(show, Show::Last);
    let is_summed = spec
        .aggregate
        .as_ref()
        .is_some_and(|aggregate| aggregate.show.0.iter().any(needs_numbers));
    [
        (is_text && spec.min.is_some(), "min", NO_NUMBER),
        (is_text && spec.max.is_some(), "max", NO_NUMBER),
        (
            is_text && spec.as_text.is_some(),
            "as_text",
            "it is text already; remove it",
        ),
        (is_no_number && spec.filter.is_some(), "filter", NO_NUMBER),
        (
            is_no_number && has_width,
            "deadband",
            "a deadband needs a number, and the value is text, a list or flags; write 0 to report every change",
        ),
        (
            is_no_number && spec.swinging_door.is_some(),
            "swinging_door",
            NO_NUMBER,
        ),
        (
            is_no_number && is_summed,
            "aggregate",
            "text, lists and flags cannot be averaged; write `show: last`",
        ),
        (spec.decimals.is_some() && is_text, "decimals", NO_NUMBER),
    ]
}

/// Limits and ways of writing that do not fit what is written.
fn writing(spec: &file::PointConfig, kind: DataType) -> [UnusedSetting; 4] {
    let Some(write) = &spec.write else {
        return [(false, "write", ""); 4];
    };
    let is_word = kind == DataType::Text || spec.words.is_some();
    let has_limits = write.min.is_some() || write.max.is_some() || write.step.is_some();
    let has_part = spec.bit.is_some() || spec.bits.is_some() || spec.mask.is_some();
    let tolerance = write
        .read_back
        .and_then(|how| how.0)
        .and_then(|how| how.tolerance);
    [
        (
            is_word && has_limits,
            "write",
            "text and words have no limits; remove `min`, `max` and `step`",
        ),
        (
            is_word && tolerance.is_some_and(|width| width != 0.0),
            "write",
            "text and words cannot be compared with a tolerance; remove it",
        ),
        (
            has_part && write.function != Function::Auto,
            "write",
            "bits of a register are written by function 22, or by reading, changing and writing; remove `function`",
        ),
        (
            write.allow_split && spec.group.is_none(),
            "write",
            "only points of a `group` are written together; remove `allow_split`",
        ),
    ]
}
