//! gateway.yaml(5): the settings of the YAML file, out of its schema. A section for each mapping, a paragraph for each key.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::config::schema;

/// The page, in the language of man(7).
pub(super) fn page(version: &str) -> String {
    let schema = schema::of_file();
    let mut page = Page { schema: &schema, out: String::new(), waiting: VecDeque::new(), named: BTreeMap::new(), values: BTreeMap::new() };
    page.put(&format!(
        ".TH gateway.yaml 5 \"\" \"wellhead {version}\"\n.SH NAME\ngateway.yaml \\- configuration of the edge gateway wellhead\n"
    ));
    page.put(".SH SYNOPSIS\n");
    page.text("./gateway.yaml, /etc/wellhead/gateway.yaml");
    page.put(".SH DESCRIPTION\n");
    page.text("One YAML file says which instruments there are, what the local broker offers, and where messages go. An annotated file with every key is in /usr/share/doc/wellhead/examples/gateway.yaml. `wellhead check` finds every mistake in a file and says what the gateway will do with it; `wellhead reload` takes a changed file over without a restart.");
    page.put(".PP\n");
    page.text("Durations and sizes have a unit. Texts may refer to ${env:NAME} and ${credential:NAME}. Relative paths begin at the folder of the file.");
    page.section("AT THE TOP OF THE FILE", &schema);
    while let Some((name, definition)) = page.waiting.pop_front() {
        page.section(&name, definition);
    }
    page.values();
    page.put(".SH \"SEE ALSO\"\nwellhead(1), wellhead\\-check(1), wellhead\\-reload(1)\n");
    page.out
}

struct Page<'a> {
    schema: &'a Value,
    out: String,
    /// Sections that are still to be written: their names, and their mappings.
    waiting: VecDeque<(String, &'a Value)>,
    /// The names of the sections of the definitions that have one.
    named: BTreeMap<&'a str, String>,
    /// What is said of values that look alike wherever they are.
    values: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Page<'a> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Text of a paragraph: nothing in it is taken for a command.
    fn text(&mut self, text: &str) {
        for line in text.lines() {
            let escaped = line.trim().replace('\\', "\\e").replace('-', "\\-");
            let guard = if escaped.starts_with(['.', '\'']) { "\\&" } else { "" };
            // Writing to a text cannot fail.
            let _ = writeln!(self.out, "{guard}{escaped}");
        }
    }

    /// The keys of a mapping.
    fn section(&mut self, name: &str, mapping: &'a Value) {
        self.put(".SH \"");
        let name = name.replace('"', "");
        self.put(&name.replace('-', "\\-"));
        self.put("\"\n");
        let required: Vec<&str> =
            mapping.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in properties(mapping).into_iter().flatten() {
            let above = if mapping.get("title").is_some() { String::new() } else { format!("{name} / ") };
            let kind = self.kind(value, &format!("{above}{key}"));
            self.put(".TP\n\\fB");
            self.put(&key.replace('-', "\\-"));
            self.put("\\fR");
            let must = if required.contains(&key.as_str()) { ", required" } else { "" };
            self.put(&format!(" ({}{must})\n", kind.replace('\\', "\\e").replace('-', "\\-")));
            self.text(value.get("description").and_then(Value::as_str).unwrap_or("See the example."));
        }
    }

    /// What a value is, in words; mappings that it names get a section of their own, called `name`.
    fn kind(&mut self, value: &'a Value, name: &str) -> String {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            return self.definition(target.rsplit('/').next().unwrap_or(target), name);
        }
        for key in ["anyOf", "allOf", "oneOf"] {
            let Some(choices) = value.get(key).and_then(Value::as_array) else { continue };
            let mut words: Vec<String> = Vec::new();
            for word in choices.iter().map(|choice| self.kind(choice, name)).filter(|word| !word.is_empty()) {
                if !words.contains(&word) {
                    words.push(word);
                }
            }
            return words.join(" or ");
        }
        if let Some(word) = value.get("const") {
            return plain(word);
        }
        if let Some(words) = value.get("enum").and_then(Value::as_array) {
            return words.iter().filter(|word| !word.is_null()).map(plain).collect::<Vec<_>>().join(", ");
        }
        let kinds = match value.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            Some(kind) => kind.as_str().into_iter().collect(),
            None => Vec::new(),
        };
        let words: Vec<String> = kinds.into_iter().filter(|kind| *kind != "null").map(|kind| self.plain_kind(kind, value, name)).collect();
        words.join(" or ")
    }

    fn plain_kind(&mut self, kind: &str, value: &'a Value, name: &str) -> String {
        match kind {
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" => match value.get("items") {
                Some(items) => format!("list: {}", self.kind(items, name)),
                None => "list".to_owned(),
            },
            "object" => match value.get("additionalProperties") {
                Some(each @ Value::Object(_)) => format!("mapping by name: {}", self.kind(each, &format!("{name} / <name>"))),
                _ => "mapping".to_owned(),
            },
            other => other.to_owned(),
        }
    }

    fn definition(&mut self, definition: &'a str, name: &str) -> String {
        let schema = self.schema;
        let Some(found) = schema.get("definitions").and_then(|all| all.get(definition)) else { return definition.to_owned() };
        if properties(found).is_some_and(|keys| !keys.is_empty()) {
            if let Some(known) = self.named.get(definition) {
                return format!("see {known}");
            }
            self.named.insert(definition, name.to_owned());
            self.waiting.push_back((name.to_owned(), found));
            return format!("see {name}");
        }
        if found.get("examples").is_some() {
            self.values.insert(definition, found);
            return definition.to_owned();
        }
        self.kind(found, name)
    }

    fn values(&mut self) {
        self.put(".SH VALUES\n");
        for (name, value) in std::mem::take(&mut self.values) {
            self.put(&format!(".TP\n\\fB{name}\\fR\n"));
            let said = value.get("description").and_then(Value::as_str).unwrap_or_default();
            let examples: Vec<String> = value.get("examples").and_then(Value::as_array).into_iter().flatten().map(plain).collect();
            self.text(&format!("{said} Such as {}.", examples.join(" or ")));
        }
    }
}

fn properties(mapping: &Value) -> Option<&Map<String, Value>> {
    mapping.get("properties").and_then(Value::as_object)
}

/// A value as it is typed.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
