//! Topic templates such as `{site}/{device}/{point}`. Pure.

use serde::Deserialize;

use crate::mqtt::{TopicError, TopicName};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    Site,
    Line,
    Device,
    Point,
}

/// A template with known placeholders only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate(Vec<Segment>);

/// Values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The site.
    pub site: &'a str,
    /// The line.
    pub line: &'a str,
    /// The device.
    pub device: &'a str,
    /// The point.
    pub point: &'a str,
}

impl TopicTemplate {
    /// Reads a template; the error says which placeholder is wrong.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a {{ without a }}"))?;
            if !before.is_empty() {
                parts.push(Segment::Text(before.to_owned()));
            }
            parts.push(match name {
                "site" => Segment::Site,
                "line" => Segment::Line,
                "device" => Segment::Device,
                "point" => Segment::Point,
                _ => return Err(format!("`{{{name}}}` is not known in a topic; use {{site}}, {{line}}, {{device}} or {{point}}")),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Segment::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The topic for some names.
    pub fn fill(&self, names: Names<'_>) -> Result<TopicName, TopicError> {
        let filled: String = self
            .0
            .iter()
            .map(|part| match part {
                Segment::Text(text) => text.as_str(),
                Segment::Site => names.site,
                Segment::Line => names.line,
                Segment::Device => names.device,
                Segment::Point => names.point,
            })
            .collect();
        TopicName::new(filled)
    }
}

impl<'de> Deserialize<'de> for TopicTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_refused() {
        let names = Names {
            site: "s7",
            line: "bus",
            device: "inlet",
            point: "flow",
        };
        let fill = |text| {
            TopicTemplate::new(text)
                .unwrap()
                .fill(names)
                .map(|topic| topic.to_string())
        };
        assert_eq!(fill("{site}/{device}/{point}").unwrap(), "s7/inlet/flow");
        assert_eq!(
            fill("plant/{line}-{device}/x").unwrap(),
            "plant/bus-inlet/x"
        );
        assert!(
            TopicTemplate::new("{sight}/x")
                .unwrap_err()
                .contains("{site}")
        );
        assert!(
            TopicTemplate::new("{site/x")
                .unwrap_err()
                .contains("without a }")
        );
        assert!(fill("{point}/+").is_err());
    }
}
