//! The JSON Schema of the YAML file, for editors: derived from structs, and written here for types
//! with a `Deserialize` of their own.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::document::removed::OF_DEVICES;
use super::file::{
    AnswerWithinConfig, BrokenValue, DeadbandConfig, Factor, File, FormatConfig, FormatKind,
    FromZero, Health, Hole, HowFormatted, HowHealthy, HowPresent, HowReadBack, OneOrMore,
    PresenceConfig, Printed, Profile, RawWord, ReadBackConfig, Remotes, Several, UnitList,
    UseWhenConfig,
};
use crate::broker::net::Listen;
use crate::field::decode::{ByteOrder, DataType};
use crate::field::serial::Speed;
use crate::field::text::bytes::{Bytes, Template as BytesTemplate};
use crate::field::text::checksum::ChecksumPosition;
use crate::field::text::command::SimulatedReply;
use crate::field::text::frame::WithEnd;
use crate::field::text::script::{Pattern, ScriptStep, TypedPattern};
use crate::mqtt::TopicFilter;
use crate::report::template::TopicTemplate;
use crate::route::LinkShare;
use crate::units::{Price, Rate, Size, Span};
use crate::uplink::{Protocol, Proxy, Remote, RemoteSecret};

/// The schema of `gateway.yaml`.
pub fn of_file() -> serde_json::Value {
    titled::<File>("wellhead gateway.yaml")
}

/// The schema of a file in `profiles/`.
pub fn of_profile() -> serde_json::Value {
    titled::<Profile>("wellhead profile")
}

/// True if points have a key of this name.
pub(super) fn is_key_of_a_point(key: &str) -> bool {
    of_profile()
        .pointer("/definitions/PointConfig/properties")
        .is_some_and(|keys| keys.get(key).is_some())
}

fn titled<T: JsonSchema>(title: &str) -> serde_json::Value {
    // The draft that editors of YAML know best.
    let mut schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    let mut schema = schema.to_value();
    takes_none(&mut schema);
    schema
}

/// Where `none` takes a setting away, or a list replaces a single filter, editors must not call it
/// wrong.
fn takes_none(schema: &mut serde_json::Value) {
    let definitions = schema
        .get_mut("definitions")
        .and_then(serde_json::Value::as_object_mut);
    for (name, definition) in definitions.into_iter().flatten() {
        let properties = definition
            .get_mut("properties")
            .and_then(serde_json::Value::as_object_mut);
        for (key, property) in properties.into_iter().flatten() {
            let takes = match name.as_str() {
                "TextConfig" => key != "frame",
                "FrameConfig" | "PointConfig" | "PauseConfig" => true,
                "DeviceConfig" => OF_DEVICES.contains(&key.as_str()),
                _ => false,
            };
            if ["SendConfig", "ReceiveConfig"].contains(&name.as_str()) && key == "filter" {
                or_else(
                    property,
                    |one| serde_json::json!({ "type": "array", "items": one, "minItems": 1 }),
                );
            } else if takes && name == "PointConfig" && key == "write" {
                or_else(
                    property,
                    |_| serde_json::json!({ "enum": ["none", null, true, false] }),
                );
            } else if takes {
                or_else(property, |_| serde_json::json!({ "enum": ["none", null] }));
            }
        }
    }
}

/// Lets a property have another form, too; its description stays.
fn or_else(
    property: &mut serde_json::Value,
    other: impl Fn(&serde_json::Value) -> serde_json::Value,
) {
    let Some(map) = property.as_object_mut() else {
        return;
    };
    let description = map.remove("description");
    let one = serde_json::Value::Object(std::mem::take(map));
    let forms = serde_json::json!([one, other(&one)]);
    map.insert("anyOf".to_owned(), forms);
    map.extend(description.map(|description| ("description".to_owned(), description)));
}

/// Types with one schema wherever they are used.
macro_rules! looks {
    ($($type:ty: $name:literal = $schema:tt;)*) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

looks! {
    Span: "Duration" = {
        "description": "A number with its unit: ms, s, m, h or d.",
        "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[a-z]+(\s*\d+\s*[a-z]+)*\s*$|\$\{(env|credential):", "examples": ["300ms", "2s", "5m", "1h", "30d"]
    };
    Size: "Size" = {
        "description": "A number with its unit: kB, MB, GB (powers of ten), KiB, MiB or GiB (powers of two).",
        "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[kKMGTP]?i?[bB]?\s*$|\$\{(env|credential):", "not": { "pattern": r"^\s*[\d.]+\s*$" },
        "examples": ["64kB", "20MB", "2GB", "4MiB"]
    };
    Price: "Price" = {
        "description": "An amount, a currency and a size.",
        "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s+[^\W\d_]+/[kKMGT]?i?B\s*$|\$\{(env|credential):", "examples": ["1.20 EUR/MB"]
    };
    Rate: "Rate" = {
        "description": "Messages or bytes and a time, or a list of both.",
        "anyOf": [
            { "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[a-zA-Z]*\s*/\s*[a-z]+\s*$|\$\{(env|credential):" },
            { "type": "array", "items": { "type": "string" }, "maxItems": 2 }
        ],
        "examples": ["10/s", "600/min", "10kB/s"]
    };
    Speed: "Speed" = {
        "description": "Baud rate, data bits, parity (N, E, O) and stop bits.",
        "type": ["string", "integer"], "pattern": r"^\s*\d+(\s+[78][NEOneo][12])?\s*$|\$\{(env|credential):", "examples": ["9600 8N1", "19200 8E1"]
    };
    ByteOrder: "ByteOrder" = {
        "description": "ABCD (big endian), CDAB (words swapped), BADC (bytes swapped), DCBA (little endian); or the names that others use.",
        "type": "string", "examples": ["ABCD", "CDAB", "BADC", "DCBA"]
    };
    TopicTemplate: "TopicTemplate" = {
        "description": "A topic with placeholders.",
        "type": "string", "examples": ["{site}/{device}/{point}"]
    };
    TopicFilter: "TopicFilter" = {
        "description": "A topic with + for any level and # at its end for all that follow.",
        "type": "string", "minLength": 1, "examples": ["#", "plant/+/flow"]
    };
    Remote: "Remote" = {
        "description": "The address of a remote broker.",
        "type": "string", "pattern": r"^(mqtts?|wss?)://[^\s/@]+(/.*)?$|\$\{(env|credential):", "examples": ["mqtts://cloud.example.net:8883"]
    };
    Proxy: "Proxy" = {
        "description": "An HTTP proxy, with a login if it needs one.",
        "type": "string", "pattern": r"^http://|\$\{(env|credential):", "examples": ["http://proxy.example.net:3128"]
    };
    RemoteSecret: "Secret" = { "type": "string" };
    Protocol: "Protocol" = { "description": "The MQTT version.", "enum": [5, "5", "5.0", "3.1.1", 4, "4"] };
    Listen: "Listen" = {
        "description": "A transport with address and port, or the path of a socket.",
        "type": "string", "pattern": r"^((mqtts?|wss?)://.+|unix:///.+)$|\$\{(env|credential):",
        "examples": ["mqtt://127.0.0.1:1883", "mqtts://0.0.0.0:8883", "wss://0.0.0.0:8084", "unix:///run/wellhead/broker.sock"]
    };
    Pattern: "Pattern" = { "description": "A regular expression.", "type": "string", "examples": [r"^(?P<weight>[+-]\d+\.\d+)\s*kg"] };
    TypedPattern: "AddressedPattern" = {
        "description": "A regular expression; {address} in it stands for the address of the device.",
        "type": "string", "examples": [r"^(?P<weight>[+-]\d+\.\d+)\s*kg"]
    };
    Bytes: "Bytes" = {
        "description": "Text with \\r \\n \\t \\xHH, or bytes as hexadecimal digits.",
        "anyOf": [{ "type": "string" }, { "type": "object", "required": ["hex"], "additionalProperties": false, "properties": { "hex": { "type": ["string", "integer"] } } }],
        "examples": ["\\r\\n", { "hex": "42 4D" }]
    };
    BytesTemplate: "Request" = {
        "description": "Text with \\r \\n \\t \\xHH, or bytes as hexadecimal digits; with placeholders such as {address}.",
        "anyOf": [{ "type": "string" }, { "type": "object", "required": ["hex"], "additionalProperties": false, "properties": { "hex": { "type": ["string", "integer"] } } }],
        "examples": ["P{address}\\r\\n", { "hex": "05 {checksum}" }]
    };
    SimulatedReply: "SimulatedReply" = {
        "description": "What a simulator answers to a command, and which points it sets to zero.",
        "anyOf": [
            { "type": "string" },
            { "type": "object", "required": ["hex"], "additionalProperties": false, "properties": { "hex": { "type": ["string", "integer"] } } },
            { "type": "object", "additionalProperties": false, "properties": {
                "say": { "description": "The answer. Default nothing.", "type": ["string", "object"] },
                "zero": { "description": "Points that show 0 from then on, and what they differ from their present value later. Default none.", "type": "array", "items": { "type": "string" } }
            } }
        ],
        "examples": ["OK\\r\\n", { "say": "T\\r\\n", "zero": ["weight"] }]
    };
    ChecksumPosition: "Position" = {
        "description": "A position in a message, or a mark beside which it is.",
        "anyOf": [
            { "type": "integer" },
            { "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": { "type": ["string", "object"] }, "propertyNames": { "enum": ["before", "behind"] } }
        ],
        "examples": [-2, { "behind": "*" }]
    };
    WithEnd: "WithEnd" = {
        "description": "A number of bytes, everything up to these bytes, or the checksum.",
        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }, { "type": "object", "required": ["hex"], "additionalProperties": false, "properties": { "hex": { "type": ["string", "integer"] } } }],
        "examples": [1, "\\n", "checksum"]
    };
    Factor: "Factor" = {
        "description": "The factor that converts a number in this unit; with an offset if the zero differs.",
        "anyOf": [
            { "type": "number" },
            {
                "type": "object", "required": ["scale", "offset"], "additionalProperties": false,
                "properties": {
                    "scale": { "description": "Multiplied by this.", "type": "number" },
                    "offset": { "description": "Then this is added.", "type": "number" }
                }
            }
        ],
        "examples": [0.001, { "scale": 0.5556, "offset": -17.7778 }]
    };
    RawWord: "RawWord" = { "type": "string" };
    Printed: "RegisterNumber" = {
        "description": "A register number as manuals print it.",
        "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 465_536 }, { "type": "string", "pattern": r"^\d{1,6}$|\$\{(env|credential):" }],
        "examples": [40001, 30001, 400_001]
    };
    FromZero: "RegisterFromZero" = {
        "description": "A register counted from zero, as on the wire.",
        "type": "integer", "minimum": 0, "maximum": 65535, "examples": [0, 107]
    };
    DeadbandConfig: "Deadband" = {
        "description": "A change in the unit of the point, or a part of the value.",
        "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*%\s*$|\$\{(env|credential):" }],
        "examples": [0.5, "2%"]
    };
    BrokenValue: "BrokenValue" = {
        "description": "A raw value, all from one to another, or what a string or a date reads.",
        "anyOf": [
            { "type": ["number", "string"] },
            { "type": "object", "required": ["from", "to"], "additionalProperties": false, "properties": { "from": { "description": "The first raw value.", "type": "number" }, "to": { "description": "The last raw value.", "type": "number" } } }
        ],
        "examples": [32767, 0xFFFF, "N/A", { "from": 65528, "to": 65535 }]
    };
    Hole: "Hole" = {
        "description": "A table and registers from zero.",
        "type": "string", "pattern": r"^(holding|input|coil|discrete) \d+(\s*-\s*\d+)?\s*$|\$\{(env|credential):", "examples": ["holding 100-120"]
    };
    UnitList: "Units" = {
        "description": "Modbus addresses.",
        "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 255 },
            { "type": "string", "pattern": r"^\s*[1-9]\d*(\s*-\s*\d+)?(\s*,\s*[1-9]\d*(\s*-\s*\d+)?)*\s*$|\$\{(env|credential):" },
            { "type": "array", "items": { "type": ["integer", "string"] } }
        ],
        "examples": ["1-20", "1-4, 7"]
    };
    LinkShare: "Percentage" = {
        "description": "A percentage, 1% to 99%.",
        "type": "string", "pattern": r"^\s*[1-9]\d?\s*%\s*$|\$\{(env|credential):", "examples": ["70%"]
    };
    UseWhenConfig: "UseWhen" = {
        "description": "Another uplink, and how long it must have been down.",
        "type": "string", "pattern": r"^.+ down for .+$|\$\{(env|credential):", "examples": ["cloud down for 10m"]
    };
    AnswerWithinConfig: "AnswerWithin" = {
        "description": "A duration, or both bounds.",
        "anyOf": [
            { "type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[a-z]+\s*$|\$\{(env|credential):" },
            {
                "type": "object", "required": ["least", "most"], "additionalProperties": false,
                "properties": { "least": { "type": "string" }, "most": { "type": "string" } }
            }
        ],
        "examples": ["300ms", { "least": "50ms", "most": "2s" }]
    };
}

impl JsonSchema for DataType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Type".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = Self::names().collect();
        json_schema!({ "description": "The type of a value.", "type": "string", "anyOf": [{ "enum": names }, { "pattern": "[A-Z_ ]" }], "examples": ["u16", "f32"] })
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<T: JsonSchema> JsonSchema for Several<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Several{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneOrMore::<T>::json_schema(generator)
    }
}

impl JsonSchema for Remotes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Remotes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneOrMore::<Remote>::json_schema(generator)
    }
}

impl JsonSchema for Health {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Health".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let how = generator.subschema_for::<HowHealthy>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, how] })
    }
}

impl JsonSchema for PresenceConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Presence".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let how = generator.subschema_for::<HowPresent>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, how] })
    }
}

impl JsonSchema for FormatConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kind = generator.subschema_for::<FormatKind>();
        let how = generator.subschema_for::<HowFormatted>();
        json_schema!({ "anyOf": [kind, how] })
    }
}

impl JsonSchema for ReadBackConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReadBack".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let how = generator.subschema_for::<HowReadBack>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, how] })
    }
}

impl JsonSchema for ScriptStep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bytes = generator.subschema_for::<BytesTemplate>();
        json_schema!({
            "description": "One of send, expect, wait and speed; `if` may be added to each of them.",
            "type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": false,
            "properties": {
                "send": bytes, "expect": { "type": "string" }, "wait": { "type": "string" }, "speed": { "type": "string" },
                "if": { "description": "The step is only taken if a group of this name was found.", "type": "string" }
            },
            "examples": [{ "send": "/?!\\r\\n" }, { "wait": "300ms" }]
        })
    }
}
