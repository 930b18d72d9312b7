//! Topic names and topic filters: values that cannot be wrong, and how they match [MQTT 5.0, 4.7].

use std::borrow::Borrow;
use std::fmt;

use bytestring::ByteString;

/// The beginning of a shared subscription.
const SHARE: &str = "$share/";
/// Longest topic in bytes [MQTT 5.0, 1.5.4].
const MAX_BYTES: usize = 65_535;
/// Most levels a topic may have: with 200 slashes, what mosquitto allows.
const MAX_LEVELS: usize = 201;

/// Why a text is no topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("a topic must have at least one character")]
    Empty,
    /// [MQTT-4.7.3-3]
    #[error("a topic may have at most 65535 bytes")]
    TooLong,
    /// Deep topics cost every subscriber; 201 levels are the limit mosquitto users know.
    #[error("a topic may have at most 201 levels")]
    TooDeep,
    /// [MQTT-4.7.3-2]
    #[error("a topic must not contain the character U+0000")]
    Null,
    /// [MQTT-4.7.1-1]
    #[error("a topic name must not contain the wildcards `+` and `#`")]
    Wildcard,
    /// [MQTT-4.7.1-1]
    #[error("`#` must be the last level and stand alone in it, as in `plant/#`")]
    MisplacedHash,
    /// [MQTT-4.7.1-2]
    #[error("`+` must stand alone in its level, as in `plant/+/flow`")]
    MisplacedPlus,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[error("a shared subscription is written `$share/<name>/<filter>`; the name has no wildcard")]
    Share,
    /// Only the broker, or a mapping that says so, writes such topics.
    #[error("a topic that begins with `$` belongs to the broker")]
    Reserved,
}

/// A valid topic name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// A valid topic filter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

fn check_common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(TopicError::TooLong);
    }
    if text.as_bytes().contains(&0) {
        Err(TopicError::Null)
    } else {
        Ok(())
    }
}

/// More levels than a topic may have. The name of a shared subscription is none.
fn is_too_deep(plain: &str) -> bool {
    plain.len() >= MAX_LEVELS && plain.bytes().filter(|byte| *byte == b'/').count() >= MAX_LEVELS
}

/// The filter of `<name>/<filter>`.
fn shared_filter(shared: &str) -> Result<&str, TopicError> {
    let (name, plain) = shared.split_once('/').ok_or(TopicError::Share)?;
    if name.is_empty() || name.contains(['+', '#']) || plain.is_empty() {
        Err(TopicError::Share)
    } else {
        Ok(plain)
    }
}

impl TopicName {
    /// Checks `text`.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let name = Self::of_any_depth(text)?;
        if name.is_too_deep() {
            Err(TopicError::TooDeep)
        } else {
            Ok(name)
        }
    }

    /// The same for a packet: the receiver of the packet refuses a topic that is too deep, and
    /// keeps the connection.
    pub fn of_any_depth(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        if text.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(text))
    }

    /// True if it has more than 201 levels; never for one that [`TopicName::new`] made.
    pub fn is_too_deep(&self) -> bool {
        is_too_deep(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy with memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&*self.0))
    }

    /// True for names such as `$SYS/...`, which wildcards at the first level do not match
    /// [MQTT-4.7.2-1].
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl TopicFilter {
    /// Checks `text`.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let filter = Self::of_any_depth(text)?;
        if filter.is_too_deep() {
            Err(TopicError::TooDeep)
        } else {
            Ok(filter)
        }
    }

    /// The same for a packet: the receiver of the packet refuses a filter that is too deep, and
    /// keeps the connection.
    pub fn of_any_depth(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        let plain = match text.strip_prefix(SHARE) {
            Some(shared) => shared_filter(shared)?,
            None => &*text,
        };
        let mut levels = plain.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash);
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::MisplacedPlus);
            }
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it has more than 201 levels; never for one that [`TopicFilter::new`] made.
    pub fn is_too_deep(&self) -> bool {
        is_too_deep(self.plain())
    }

    /// A copy with memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&*self.0))
    }

    /// True for `$share/...` filters.
    pub fn is_shared(&self) -> bool {
        self.0.starts_with(SHARE)
    }

    /// The text that topics are matched with: without `$share/<name>/`.
    pub fn plain(&self) -> &str {
        self.0
            .strip_prefix(SHARE)
            .and_then(|shared| shared.split_once('/'))
            .map_or(&*self.0, |(_, plain)| plain)
    }

    /// True if every topic that matches `other` matches this filter too.
    pub fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.plain(), other.plain());
        if theirs.starts_with('$') != mine.starts_with('$') {
            return false;
        }
        let mut others = theirs.split('/');
        for level in mine.split('/') {
            match (level, others.next()) {
                ("#", _) => return true,
                (_, None | Some("#")) => return false,
                ("+", Some(_)) => {}
                (level, Some(other)) if level == other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }

    /// True if some topic can match both filters.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.plain(), other.plain());
        let first_is_wildcard = |text: &str| text.starts_with(['+', '#']);
        if (mine.starts_with('$') && first_is_wildcard(theirs))
            || (theirs.starts_with('$') && first_is_wildcard(mine))
        {
            return false;
        }
        let (mut left, mut right) = (mine.split('/'), theirs.split('/'));
        loop {
            match (left.next(), right.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }

    /// True if a message published to `name` is for this filter.
    pub fn matches(&self, name: &TopicName) -> bool {
        let first_is_wildcard = self.plain().starts_with(['+', '#']);
        if name.is_reserved() && first_is_wildcard {
            return false;
        }
        let mut levels = name.0.split('/');
        for wanted in self.plain().split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

macro_rules! text_like {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl From<$type> for ByteString {
            fn from(topic: $type) -> Self {
                topic.0
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text.clone())
                    .map_err(|e| serde::de::Error::custom(format!("`{text}`: {e}")))
            }
        }
    };
}

text_like!(TopicName);
text_like!(TopicFilter);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, name: &str, expected: bool) {
        let filter = TopicFilter::new(filter).unwrap();
        let name = TopicName::new(name).unwrap();
        assert_eq!(filter.matches(&name), expected, "{filter} against {name}");
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check(
            "sport/tennis/player1/#",
            "sport/tennis/player1/score/wimbledon",
            true,
        );
        check("sport/#", "sport", true);
        check("#", "sport/tennis", true);
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("#", "$SYS/broker/uptime", false);
        check("+/monitor/clients", "$SYS/monitor/clients", false);
        check("$SYS/#", "$SYS/broker/uptime", true);
        check("$SYS/monitor/+", "$SYS/monitor/clients", true);
        check("a/b", "a/B", false);
        check("a//b", "a//b", true);
        check("a/+/b", "a//b", true);
    }

    #[test]
    fn filters_are_compared_with_filters() {
        let covers = |one: &str, other: &str| {
            TopicFilter::new(one)
                .unwrap()
                .covers(&TopicFilter::new(other).unwrap())
        };
        assert!(
            covers("#", "a/b")
                && covers("#", "+/#")
                && covers("a/#", "a")
                && covers("a/#", "a/+/c")
                && covers("+/b", "a/b")
        );
        assert!(
            !covers("a/+", "a/#")
                && !covers("a/b", "a/+")
                && !covers("#", "$SYS/#")
                && !covers("+", "#")
                && !covers("a/b", "a")
        );
        assert!(covers("a/#", "$share/group/a/b"));
        let overlaps = |one: &str, other: &str| {
            TopicFilter::new(one)
                .unwrap()
                .overlaps(&TopicFilter::new(other).unwrap())
        };
        assert!(
            overlaps("a/+", "+/b")
                && overlaps("#", "a/b")
                && overlaps("a/#", "a")
                && overlaps("a", "a/#")
                && overlaps("$SYS/#", "$SYS/a")
        );
        assert!(
            !overlaps("a/b", "a/c")
                && !overlaps("a", "a/b")
                && !overlaps("#", "$SYS/a")
                && !overlaps("+/a", "$SYS/a")
        );
    }

    #[test]
    fn wrong_topics_are_refused_with_their_fault() {
        for (text, fault) in [
            ("", TopicError::Empty),
            ("a/#/b", TopicError::MisplacedHash),
            ("a#", TopicError::MisplacedHash),
            ("a/b+", TopicError::MisplacedPlus),
            ("a\0", TopicError::Null),
            ("$share/group", TopicError::Share),
            ("$share//a", TopicError::Share),
            ("$share/group/", TopicError::Share),
            ("$share/gr+oup/a", TopicError::Share),
            ("$share/group/a#", TopicError::MisplacedHash),
        ] {
            assert_eq!(TopicFilter::new(text).unwrap_err(), fault, "{text:?}");
        }
        assert_eq!(TopicName::new("a/+").unwrap_err(), TopicError::Wildcard);
        assert_eq!(
            TopicName::new("a/".repeat(201)).unwrap_err(),
            TopicError::TooDeep
        );
        assert!(
            TopicName::new("a/".repeat(200)).is_ok() && TopicFilter::new("+/".repeat(200)).is_ok()
        );
        assert!(TopicFilter::new(format!("$share/group/{}", "a/".repeat(200))).is_ok());
        assert_eq!(
            TopicFilter::new(format!("$share/group/{}", "a/".repeat(201))).unwrap_err(),
            TopicError::TooDeep
        );
    }
}
