//! The settings of the YAML file, read out of its schema: a section for each mapping, an entry for
//! each key. `roff` and `markdown` print them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use crate::config::schema;

/// The title of the section about the keys at the top of the file.
const TOP: &str = "At the top of the file";

/// Every setting of the file, in the order in which a reader meets the sections.
#[derive(Debug)]
pub(super) struct FileSettings {
    pub(super) sections: Vec<Section>,
    /// Values that look alike wherever they are, such as durations.
    pub(super) values: Vec<Appearance>,
}

/// The form of a value.
#[derive(Debug)]
pub(super) struct Appearance {
    pub(super) name: String,
    pub(super) text: String,
    /// As they are typed.
    pub(super) examples: Vec<String>,
}

/// The keys of one mapping.
#[derive(Debug)]
pub(super) struct Section {
    /// Where the mapping is, such as `broker / tls`; no two sections have the same title.
    pub(super) title: String,
    pub(super) entries: Vec<SettingEntry>,
}

/// One key.
#[derive(Debug)]
pub(super) struct SettingEntry {
    pub(super) key: String,
    pub(super) kind: SettingKind,
    pub(super) is_required: bool,
    pub(super) text: String,
}

/// The type of a key's value, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SettingKind(pub(super) Vec<KindPart>);

/// A piece of a [`SettingKind`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KindPart {
    Words(String),
    /// A mapping that has a section of its own: its title.
    Section(String),
    /// The name of one of [`FileSettings::values`].
    Value(String),
}

impl SettingKind {
    fn words(text: impl Into<String>) -> Self {
        Self(vec![KindPart::Words(text.into())])
    }

    fn after(text: &str, mut rest: Self) -> Self {
        rest.0.insert(0, KindPart::Words(text.to_owned()));
        rest
    }

    /// The different ones among `kinds`, with "or" between them.
    fn any_of(kinds: impl Iterator<Item = Self>) -> Self {
        let mut different: Vec<Self> = Vec::new();
        for kind in kinds.filter(|kind| !kind.0.is_empty()) {
            if !different.contains(&kind) {
                different.push(kind);
            }
        }
        let mut parts = Vec::new();
        for kind in different {
            if !parts.is_empty() {
                parts.push(KindPart::Words(" or ".to_owned()));
            }
            parts.extend(kind.0);
        }
        Self(parts)
    }
}

/// Reads the schema of the file.
pub(super) fn settings() -> FileSettings {
    let schema = schema::of_file();
    let mut reader = Reader {
        schema: &schema,
        waiting: VecDeque::new(),
        named: BTreeMap::new(),
        values: BTreeMap::new(),
    };
    let mut sections = vec![reader.section(TOP.to_owned(), &schema)];
    while let Some((title, mapping)) = reader.waiting.pop_front() {
        sections.push(reader.section(title, mapping));
    }
    let values = reader
        .values
        .into_iter()
        .map(|(name, value)| appearance(name, value))
        .collect();
    FileSettings { sections, values }
}

struct Reader<'a> {
    schema: &'a Value,
    /// Mappings whose sections are still to be read, with their titles.
    waiting: VecDeque<(String, &'a Value)>,
    /// The titles of the definitions that have a section.
    named: BTreeMap<&'a str, String>,
    values: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Reader<'a> {
    fn section(&mut self, title: String, mapping: &'a Value) -> Section {
        let required: Vec<&str> = mapping
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let above = if title == TOP {
            String::new()
        } else {
            format!("{title} / ")
        };
        let entry = |(key, value): (&'a String, &'a Value)| SettingEntry {
            key: key.clone(),
            kind: self.kind(value, &format!("{above}{key}")),
            is_required: required.contains(&key.as_str()),
            text: value
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or("See the example.")
                .to_owned(),
        };
        let entries = properties(mapping)
            .into_iter()
            .flatten()
            .map(entry)
            .collect();
        Section { title, entries }
    }

    /// The type of a value; mappings that it names get a section of their own, called `name`.
    fn kind(&mut self, value: &'a Value, name: &str) -> SettingKind {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            return self.definition(target.rsplit('/').next().unwrap_or(target), name);
        }
        for key in ["anyOf", "allOf", "oneOf"] {
            let Some(choices) = value.get(key).and_then(Value::as_array) else {
                continue;
            };
            return SettingKind::any_of(choices.iter().map(|choice| self.kind(choice, name)));
        }
        if let Some(word) = value.get("const") {
            return SettingKind::words(plain(word));
        }
        if let Some(words) = value.get("enum").and_then(Value::as_array) {
            let words = different(words);
            return if words.is_empty() {
                SettingKind::default()
            } else {
                SettingKind::words(words.join(", "))
            };
        }
        let kinds: Vec<&str> = match value.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            Some(kind) => kind.as_str().into_iter().collect(),
            None => Vec::new(),
        };
        SettingKind::any_of(
            kinds
                .into_iter()
                .filter(|kind| *kind != "null")
                .map(|kind| self.plain_kind(kind, value, name)),
        )
    }

    fn plain_kind(&mut self, kind: &str, value: &'a Value, name: &str) -> SettingKind {
        match kind {
            "string" => SettingKind::words("text"),
            "integer" => SettingKind::words("whole number"),
            "boolean" => SettingKind::words("true or false"),
            "array" => match value.get("items") {
                Some(items) => SettingKind::after("list: ", self.kind(items, name)),
                None => SettingKind::words("list"),
            },
            "object" => match value.get("additionalProperties") {
                Some(each @ Value::Object(_)) => SettingKind::after(
                    "mapping by name: ",
                    self.kind(each, &format!("{name} / <name>")),
                ),
                _ => SettingKind::words("mapping"),
            },
            other => SettingKind::words(other),
        }
    }

    fn definition(&mut self, definition: &'a str, name: &str) -> SettingKind {
        let schema = self.schema;
        let Some(found) = schema
            .get("definitions")
            .and_then(|all| all.get(definition))
        else {
            return SettingKind::words(definition);
        };
        if properties(found).is_some_and(|keys| !keys.is_empty()) {
            if !self.named.contains_key(definition) {
                self.named.insert(definition, name.to_owned());
                self.waiting.push_back((name.to_owned(), found));
            }
            let title = self.named.get(definition).map_or(name, String::as_str);
            return SettingKind(vec![KindPart::Section(title.to_owned())]);
        }
        if found.get("examples").is_some() {
            self.values.insert(definition, found);
            return SettingKind(vec![KindPart::Value(definition.to_owned())]);
        }
        self.kind(found, name)
    }
}

fn appearance(name: &str, value: &Value) -> Appearance {
    let mut text = value
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let choices = value
        .get("anyOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let names: Vec<String> = choices
        .filter_map(|choice| choice.get("enum")?.as_array())
        .flat_map(|words| different(words))
        .collect();
    if !names.is_empty() {
        text.push_str(&format!(" One of {}.", names.join(", ")));
    }
    let examples = value
        .get("examples")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(plain)
        .collect();
    Appearance {
        name: name.to_owned(),
        text,
        examples,
    }
}

fn properties(mapping: &Value) -> Option<&Map<String, Value>> {
    mapping.get("properties").and_then(Value::as_object)
}

/// Words as they are typed, each once: `5` may be a number or a text.
fn different(words: &[Value]) -> Vec<String> {
    let mut different = Vec::new();
    for word in words.iter().filter(|word| !word.is_null()).map(plain) {
        if !different.contains(&word) {
            different.push(word);
        }
    }
    different
}

/// A value as it is typed.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
