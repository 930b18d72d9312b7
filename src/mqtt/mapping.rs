//! Maps the topics of one side of an uplink to those of the other side: a part is taken off, a part
//! is put before, or by a template. Pure.
//!
//! Invariants:
//! * A mapping takes the topics that its filter matches, and no others.
//! * [`Mapping::back`] undoes [`Mapping::apply`] exactly, or returns nothing: a template that
//!   leaves out a wildcard has no way back.
//! * `#` stands for the levels in its place together with the slash before them: `plant/#` to
//!   `oilco/#` makes `oilco` of `plant`, `oilco/` of `plant/` and `oilco//x` of `plant//x`.
//! * No topic becomes one that begins with `$` unless the mapping itself says so, or it began with
//!   `$` before.

use super::{MappingError, TopicError, TopicFilter, TopicName};

/// One level of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    /// The level that a `+` of the filter matched, with text around it.
    Wildcard {
        before: String,
        /// From 0.
        number: usize,
        after: String,
    },
    /// The rest that the `#` of the filter matched; always the last level.
    Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// A part is taken off, then one is put before.
    Prefix {
        strip: String,
        prefix: String,
    },
    Template(Vec<Level>),
}

/// A filter, and how the topics that it matches are written on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    filter: TopicFilter,
    way: Way,
}

/// The parts of a topic in place of the wildcards: a level for each `+`, and the text for `#`;
/// `None` for the parent level.
struct Captures<'t> {
    levels: Vec<&'t str>,
    rest: Option<&'t str>,
}

/// The first level, and what is behind its slash.
fn first_level(text: &str) -> (&str, Option<&str>) {
    text.split_once('/')
        .map_or((text, None), |(level, behind)| (level, Some(behind)))
}

impl Mapping {
    /// Topics stay what they are.
    pub fn keep(filter: TopicFilter) -> Self {
        Self {
            filter,
            way: Way::Prefix {
                strip: String::new(),
                prefix: String::new(),
            },
        }
    }

    /// Takes `strip` off the beginning of a topic, then puts `prefix` before it; both may be empty.
    pub fn prefix(filter: TopicFilter, strip: &str, prefix: &str) -> Result<Self, MappingError> {
        let plain = filter.plain();
        let fixed = plain
            .find(['+', '#'])
            .map_or(plain, |wildcard| plain.get(..wildcard).unwrap_or_default());
        if !fixed.starts_with(strip) {
            return Err(MappingError::Strip {
                filter: plain.to_owned(),
                strip: strip.to_owned(),
            });
        }
        if prefix.is_empty() && plain == strip {
            return Err(MappingError::Nothing(plain.to_owned()));
        }
        let example = format!("{prefix}x");
        TopicName::new(example.clone()).map_err(|error| MappingError::Topic(example, error))?;
        Ok(Self {
            filter,
            way: Way::Prefix {
                strip: strip.to_owned(),
                prefix: prefix.to_owned(),
            },
        })
    }

    /// Writes topics by a template: `+` for each single wildcard of the filter in order, or {1},
    /// {2} for them by number, `#` at the end for the rest, {site} for the site. Without any of
    /// them it is one topic.
    pub fn template(filter: TopicFilter, to: &str, site: &str) -> Result<Self, MappingError> {
        let plain = filter.plain();
        let has = plain.split('/').filter(|level| *level == "+").count();
        let levels = Levels::read(to, site)?;
        if levels.highest > has {
            return Err(MappingError::TooManyLevels {
                filter: plain.to_owned(),
                wanted: levels.highest,
                has,
            });
        }
        if levels.found.contains(&Level::Rest) && !plain.ends_with('#') {
            return Err(MappingError::NoRest(plain.to_owned()));
        }
        let mapping = Self {
            way: Way::Template(levels.found),
            filter,
        };
        match mapping
            .example()
            .and_then(|example| mapping.apply(&example))
        {
            Some(Err(error)) => Err(MappingError::Topic(to.to_owned(), error)),
            _ => Ok(mapping),
        }
    }

    /// The filter of the topics that it takes.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// True if topics stay what they are.
    pub fn is_plain(&self) -> bool {
        matches!(&self.way, Way::Prefix { strip, prefix } if strip == prefix)
    }

    /// The topic on the other side; `None` if the filter does not match it.
    pub fn apply(&self, topic: &TopicName) -> Option<Result<TopicName, TopicError>> {
        if !self.filter.matches(topic) {
            return None;
        }
        let mapped = match &self.way {
            Way::Prefix { strip, prefix } => replaced(topic.as_str(), strip, prefix),
            Way::Template(levels) => self
                .captures(topic.as_str())
                .map(|captures| fill(levels, &captures)),
        };
        let checked = TopicName::new(mapped.unwrap_or_default()).and_then(|mapped| {
            let is_new = mapped.is_reserved() && !topic.is_reserved() && !self.says_reserved();
            if is_new {
                Err(TopicError::Reserved)
            } else {
                Ok(mapped)
            }
        });
        Some(checked)
    }

    /// The topic that becomes `topic` on the other side, if there is exactly one.
    pub fn back(&self, topic: &TopicName) -> Option<TopicName> {
        let original = match &self.way {
            Way::Prefix { strip, prefix } => replaced(topic.as_str(), prefix, strip)?,
            Way::Template(levels) => self.refill(levels, topic.as_str())?,
        };
        let original = TopicName::new(original).ok()?;
        (self.apply(&original)?.as_ref() == Ok(topic)).then_some(original)
    }

    /// True if `back` finds the way for every topic that it takes.
    pub fn has_way_back(&self) -> bool {
        let Way::Template(levels) = &self.way else {
            return true;
        };
        let wanted = self
            .filter
            .plain()
            .split('/')
            .filter(|level| *level == "+")
            .count();
        let has = |wanted: usize| {
            levels
                .iter()
                .any(|level| matches!(level, Level::Wildcard { number, .. } if *number == wanted))
        };
        (0..wanted).all(has)
            && (!self.filter.plain().ends_with('#') || levels.contains(&Level::Rest))
    }

    /// A filter for everything that comes out, or more; `None` if no filter can say it.
    pub fn image(&self) -> Option<TopicFilter> {
        let text = match &self.way {
            Way::Prefix { strip, prefix } => {
                let behind = self.filter.plain().strip_prefix(strip.as_str())?;
                match cut_level(prefix).filter(|_| behind.starts_with(['+', '#'])) {
                    // It is put before the text of a level: any level that begins so may come out.
                    Some(level) => {
                        let whole = prefix.strip_suffix(level).unwrap_or_default();
                        format!(
                            "{whole}+{}",
                            if behind.starts_with('#') {
                                "/#"
                            } else {
                                behind.get(1..).unwrap_or_default()
                            }
                        )
                    }
                    None => format!("{prefix}{behind}"),
                }
            }
            Way::Template(levels) => {
                let level = |level: &Level| match level {
                    Level::Text(text) => text.clone(),
                    Level::Wildcard { .. } => "+".to_owned(),
                    Level::Rest => "#".to_owned(),
                };
                levels.iter().map(level).collect::<Vec<String>>().join("/")
            }
        };
        TopicFilter::new(text).ok()
    }

    /// True if a topic that comes out may match `filter`. Never wrong where it is false.
    pub fn meets(&self, filter: &TopicFilter) -> bool {
        let Some(image) = self.image() else {
            return true;
        };
        if image.as_str().starts_with('+') && self.says_reserved() {
            return true;
        }
        let fits = |(place, before, after): (usize, &str, &str)| {
            let mut levels = filter.plain().split('/').take_while(|level| *level != "#");
            let fits =
                |level: &str| level == "+" || (level.starts_with(before) && level.ends_with(after));
            levels.nth(place).is_none_or(fits)
        };
        image.overlaps(filter) && self.partial_levels().into_iter().all(fits)
    }

    /// The levels that come out of which only the beginning and the end are certain: the place, and
    /// both texts.
    fn partial_levels(&self) -> Vec<(usize, &str, &str)> {
        match &self.way {
            Way::Prefix { prefix, .. } => cut_level(prefix)
                .map(|level| (prefix.matches('/').count(), level, ""))
                .into_iter()
                .collect(),
            Way::Template(levels) => {
                let mut place = 0;
                let mut partial = Vec::new();
                for level in levels {
                    match level {
                        Level::Text(text) => place += text.matches('/').count(),
                        Level::Wildcard { before, after, .. } => {
                            partial.push((place, before.as_str(), after.as_str()));
                        }
                        Level::Rest => {}
                    }
                    place += 1;
                }
                partial
            }
        }
    }

    /// A topic that the filter matches; `None` if its levels are too many for one.
    pub fn example(&self) -> Option<TopicName> {
        let mut names = ["a", "b", "c", "d"].into_iter().cycle();
        let level = |level: &str| match level {
            "+" => names.next().unwrap_or_default().to_owned(),
            "#" => "x/y".to_owned(),
            text => text.to_owned(),
        };
        let text = self
            .filter
            .plain()
            .split('/')
            .map(level)
            .collect::<Vec<String>>()
            .join("/");
        TopicName::new(text).ok()
    }

    /// True if the mapping itself writes topics that begin with `$`.
    fn says_reserved(&self) -> bool {
        match &self.way {
            Way::Prefix { prefix, .. } => prefix.starts_with('$'),
            Way::Template(levels) => match levels.first() {
                Some(Level::Text(text)) => text.starts_with('$'),
                Some(Level::Wildcard { before, .. }) => before.starts_with('$'),
                _ => false,
            },
        }
    }

    fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        let (mut levels, mut left) = (Vec::new(), Some(topic));
        for wanted in self.filter.plain().split('/') {
            if wanted == "#" {
                return Some(Captures { levels, rest: left });
            }
            let (level, behind) = first_level(left?);
            if wanted == "+" {
                levels.push(level);
            } else if wanted != level {
                return None;
            }
            left = behind;
        }
        left.is_none().then_some(Captures { levels, rest: None })
    }

    /// The filter with what a topic of the other side has in place of its wildcards.
    fn refill(&self, levels: &[Level], topic: &str) -> Option<String> {
        let mut found: Vec<Option<&str>> = vec![None; self.filter.plain().split('/').count()];
        let (mut left, mut rest) = (Some(topic), None);
        for wanted in levels {
            if *wanted == Level::Rest {
                rest = Some(left.take());
                break;
            }
            let (level, behind) = first_level(left?);
            match wanted {
                Level::Wildcard {
                    before,
                    number,
                    after,
                } => {
                    let value = level
                        .strip_prefix(before.as_str())?
                        .strip_suffix(after.as_str())?;
                    *found.get_mut(*number)? = Some(value);
                }
                Level::Text(text) if text == level => {}
                Level::Text(_) | Level::Rest => return None,
            }
            left = behind;
        }
        if left.is_some() {
            return None;
        }
        let mut numbers = found.into_iter();
        let mut filled: Vec<&str> = Vec::new();
        for level in self.filter.plain().split('/') {
            match level {
                "+" => filled.push(numbers.next()??),
                "#" => filled.extend(rest?),
                text => filled.push(text),
            }
        }
        Some(filled.join("/"))
    }
}

/// The last level of a prefix that does not end with a slash.
fn cut_level(prefix: &str) -> Option<&str> {
    prefix.rsplit('/').next().filter(|level| !level.is_empty())
}

/// `text` with `new` in place of `old` at its beginning. The parent level of `old` becomes that of
/// `new`, if both end with a slash.
fn replaced(text: &str, old: &str, new: &str) -> Option<String> {
    if let Some(behind) = text.strip_prefix(old) {
        return Some(format!("{new}{behind}"));
    }
    let is_parent = old.strip_suffix('/') == Some(text);
    new.strip_suffix('/')
        .filter(|_| is_parent)
        .map(str::to_owned)
}

fn fill(levels: &[Level], captures: &Captures<'_>) -> String {
    let mut filled = Vec::new();
    for level in levels {
        match level {
            Level::Text(text) => filled.push(text.clone()),
            Level::Wildcard {
                before,
                number,
                after,
            } => {
                filled.push(format!(
                    "{before}{}{after}",
                    captures.levels.get(*number).copied().unwrap_or_default()
                ));
            }
            Level::Rest => filled.extend(captures.rest.map(str::to_owned)),
        }
    }
    filled.join("/")
}

/// The levels of a template while it is read.
#[derive(Default)]
struct Levels {
    found: Vec<Level>,
    /// Of the level that is read: text before a wildcard, the wildcard, text behind it.
    before: String,
    number: Option<usize>,
    after: String,
    /// Wildcards by order, and by number.
    ordered: usize,
    numbered: bool,
    /// The highest number of a wildcard, from 1.
    highest: usize,
}

impl Levels {
    fn read(to: &str, site: &str) -> Result<Self, MappingError> {
        let mut levels = Self::default();
        let mut left = to;
        while let Some(character) = left.chars().next() {
            let behind = left.get(character.len_utf8()..).unwrap_or_default();
            left = match character {
                '{' => {
                    let (name, behind) = behind.split_once('}').ok_or(MappingError::Unclosed)?;
                    levels.placeholder(name, site)?;
                    behind
                }
                '+' => {
                    let is_alone =
                        levels.is_empty() && (behind.is_empty() || behind.starts_with('/'));
                    if !is_alone {
                        return Err(MappingError::MisplacedLevel);
                    }
                    levels.ordered += 1;
                    levels.wildcard(levels.ordered)?;
                    behind
                }
                '#' if levels.is_empty() && behind.is_empty() => {
                    levels.found.push(Level::Rest);
                    return levels.checked();
                }
                '#' => return Err(MappingError::MisplacedRest),
                '/' => {
                    levels.end();
                    behind
                }
                other => {
                    levels.text(other);
                    behind
                }
            };
        }
        levels.end();
        levels.checked()
    }

    fn checked(self) -> Result<Self, MappingError> {
        if self.ordered > 0 && self.numbered {
            Err(MappingError::Mixed)
        } else {
            Ok(self)
        }
    }

    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.number.is_none()
    }

    fn text(&mut self, character: char) {
        let part = if self.number.is_some() {
            &mut self.after
        } else {
            &mut self.before
        };
        part.push(character);
    }

    fn placeholder(&mut self, name: &str, site: &str) -> Result<(), MappingError> {
        if name == "site" {
            for character in site.chars() {
                if character == '/' {
                    self.end();
                } else {
                    self.text(character);
                }
            }
            return Ok(());
        }
        let number = name.parse().ok().filter(|number: &usize| *number > 0);
        self.numbered = true;
        self.wildcard(number.ok_or_else(|| MappingError::Placeholder(name.to_owned()))?)
    }

    /// A wildcard by its number, from 1.
    fn wildcard(&mut self, number: usize) -> Result<(), MappingError> {
        if self.number.is_some() {
            return Err(MappingError::TwoInOneLevel);
        }
        self.number = Some(number - 1);
        self.highest = self.highest.max(number);
        Ok(())
    }

    fn end(&mut self) {
        let (before, after) = (
            std::mem::take(&mut self.before),
            std::mem::take(&mut self.after),
        );
        self.found.push(match self.number.take() {
            Some(number) => Level::Wildcard {
                before,
                number,
                after,
            },
            None => Level::Text(before),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text.to_owned()).unwrap()
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    fn template(from: &str, to: &str) -> Mapping {
        Mapping::template(filter(from), to, "seven")
            .unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
    }

    fn prefix(from: &str, strip: &str, prefix: &str) -> Mapping {
        Mapping::prefix(filter(from), strip, prefix)
            .unwrap_or_else(|error| panic!("{from}: {error}"))
    }

    /// A topic becomes the other one, and that the first one again.
    fn check(mapping: &Mapping, from: &str, to: &str) {
        assert_eq!(
            mapping.apply(&name(from)),
            Some(Ok(name(to))),
            "{mapping:?}"
        );
        assert_eq!(
            mapping.back(&name(to)),
            Some(name(from)),
            "{mapping:?} back from {to}"
        );
    }

    #[test]
    fn a_part_is_taken_off_and_one_is_put_before() {
        check(&prefix("#", "", "oilco/"), "plant/x", "oilco/plant/x");
        check(
            &prefix("plant/#", "plant/", "oilco/"),
            "plant/x/y",
            "oilco/x/y",
        );
        check(&prefix("plant/#", "plant/", ""), "plant/x", "x");
        check(
            &prefix("plant/+/x", "plant", "oilco"),
            "plant/a/x",
            "oilco/a/x",
        );
        check(
            &prefix("$share/group/plant/#", "plant/", "here/"),
            "plant/x",
            "here/x",
        );
        check(
            &prefix("$SYS/wellhead/#", "$SYS/", "health/"),
            "$SYS/wellhead/uplink/a",
            "health/wellhead/uplink/a",
        );
        check(
            &prefix("shadow/#", "", "$aws/things/x/"),
            "shadow/update",
            "$aws/things/x/shadow/update",
        );
    }

    #[test]
    fn a_template_carries_wildcards_over_in_order_or_by_number() {
        check(
            &template("plant/#", "oilco/{site}/#"),
            "plant/x/y",
            "oilco/seven/x/y",
        );
        check(
            &template("plant/+/flow/+", "oilco/+/of/+"),
            "plant/a/flow/b",
            "oilco/a/of/b",
        );
        check(
            &template("+/+/flow", "{2}/line-{1}.old/{site}"),
            "a/b/flow",
            "b/line-a.old/seven",
        );
        check(
            &template("plant/+/#", "oilco/+/#"),
            "plant/a/x/y",
            "oilco/a/x/y",
        );
        check(&template("a/b", "c/d/e"), "a/b", "c/d/e");
        check(&template("#", "#"), "a/b", "a/b");
        let fixed = template("plant/+/#", "devices/x/messages/events/");
        assert_eq!(
            fixed.apply(&name("plant/a/b")),
            Some(Ok(name("devices/x/messages/events/")))
        );
        assert_eq!(
            (
                fixed.back(&name("devices/x/messages/events/")),
                fixed.has_way_back()
            ),
            (None, false)
        );
        let one_of_two = template("plant/+/#", "oilco/+");
        assert_eq!(
            one_of_two.apply(&name("plant/a/b")),
            Some(Ok(name("oilco/a")))
        );
        assert!(!one_of_two.has_way_back() && template("+/#", "x/{1}/#").has_way_back());
    }

    #[test]
    fn empty_levels_and_the_parent_level_stay_what_they_are() {
        for mapping in [
            template("plant/#", "oilco/#"),
            prefix("plant/#", "plant/", "oilco/"),
        ] {
            check(&mapping, "plant", "oilco");
            check(&mapping, "plant/", "oilco/");
            check(&mapping, "plant//x", "oilco//x");
            assert_eq!(mapping.apply(&name("plants/x")), None);
        }
        check(&template("a/+/b", "c/+/d"), "a//b", "c//d");
        check(&template("/#", "oilco/#"), "/x", "oilco/x");
        check(&prefix("#", "", "oilco"), "/x", "oilco/x");
        for mapping in [template("plant/#", "#"), prefix("plant/#", "plant/", "")] {
            assert_eq!(mapping.apply(&name("plant")), Some(Err(TopicError::Empty)));
            assert_eq!(mapping.apply(&name("plant/")), Some(Err(TopicError::Empty)));
        }
        assert_eq!(
            prefix("plant/#", "plant/", "x-").apply(&name("plant")),
            Some(Err(TopicError::Empty))
        );
    }

    #[test]
    fn what_comes_out_is_a_topic_or_refused() {
        let long = name(&"x".repeat(65_530));
        assert_eq!(
            prefix("#", "", "oilco/").apply(&long),
            Some(Err(TopicError::TooLong))
        );
        assert_eq!(
            template("#", "a/#").apply(&name(&"x/".repeat(200))),
            Some(Err(TopicError::TooDeep))
        );
        assert_eq!(
            template("a/#", "#").apply(&name("a/$SYS/x")),
            Some(Err(TopicError::Reserved))
        );
        assert_eq!(
            prefix("a/#", "a/", "").apply(&name("a/$SYS/x")),
            Some(Err(TopicError::Reserved))
        );
        check(&template("$SYS/#", "$remote/#"), "$SYS/x", "$remote/x");
    }

    #[test]
    fn an_impossible_mapping_is_refused() {
        use MappingError as E;
        let of = |from: &str, to: &str| Mapping::template(filter(from), to, "seven").unwrap_err();
        assert_eq!(of("a/#", "b/#/c"), E::MisplacedRest);
        assert_eq!(of("a/#", "b#"), E::MisplacedRest);
        assert_eq!(of("a/+", "b/#"), E::NoRest("a/+".to_owned()));
        assert_eq!(
            of("a/+", "b/+/+"),
            E::TooManyLevels {
                filter: "a/+".to_owned(),
                wanted: 2,
                has: 1
            }
        );
        assert_eq!(
            of("a/+", "b/{2}"),
            E::TooManyLevels {
                filter: "a/+".to_owned(),
                wanted: 2,
                has: 1
            }
        );
        assert_eq!(of("a/+", "b+"), E::MisplacedLevel);
        assert_eq!(of("+/+", "+/{2}"), E::Mixed);
        assert_eq!(of("+/+", "{1}{2}"), E::TwoInOneLevel);
        assert_eq!(of("a", "{device}"), E::Placeholder("device".to_owned()));
        assert_eq!(of("+", "{0}"), E::Placeholder("0".to_owned()));
        assert_eq!(of("a", "{site"), E::Unclosed);
        assert_eq!(of("a", ""), E::Topic(String::new(), TopicError::Empty));
        let strip = |from: &str, strip: &str, prefix: &str| {
            Mapping::prefix(filter(from), strip, prefix).unwrap_err()
        };
        assert_eq!(
            strip("#", "plant/", ""),
            E::Strip {
                filter: "#".to_owned(),
                strip: "plant/".to_owned()
            }
        );
        assert_eq!(
            strip("plant/+", "plant/+", ""),
            E::Strip {
                filter: "plant/+".to_owned(),
                strip: "plant/+".to_owned()
            }
        );
        assert_eq!(
            strip("plant/a", "plant/a", ""),
            E::Nothing("plant/a".to_owned())
        );
        assert!(matches!(strip("#", "", "a+/"), E::Topic(..)));
    }

    #[test]
    fn the_image_matches_what_comes_out() {
        let of = |mapping: &Mapping| mapping.image().map(|image| image.as_str().to_owned());
        assert_eq!(
            of(&prefix("plant/#", "plant/", "oilco/")).as_deref(),
            Some("oilco/#")
        );
        assert_eq!(of(&prefix("#", "", "oilco")).as_deref(), Some("+/#"));
        assert_eq!(of(&prefix("+/x", "", "a/oilco-")).as_deref(), Some("a/+/x"));
        assert_eq!(
            of(&template("+/+/flow", "{2}/line-{1}/{site}")).as_deref(),
            Some("+/+/seven")
        );
    }

    #[test]
    fn a_mapping_meets_a_filter_that_may_match_what_comes_out() {
        let check = |mapping: &Mapping, meeting: &[&str], others: &[&str]| {
            for text in meeting {
                assert!(mapping.meets(&filter(text)), "{mapping:?} {text}");
            }
            for text in others {
                assert!(!mapping.meets(&filter(text)), "{mapping:?} {text}");
            }
        };
        check(
            &prefix("#", "", "site-"),
            &["#", "site-a/#", "+/x", "site-/+"],
            &["cmd/#", "site/#"],
        );
        check(
            &prefix("#", "", "oilco/site-"),
            &["oilco/#", "oilco/site-7/x", "$share/g/oilco/+"],
            &["oilco", "oilco/other/#"],
        );
        check(&prefix("a/#", "a/", "x/"), &["x/#", "x", "+/y"], &["a/#"]);
        check(
            &template("+/+", "all/p-{1}-x/{2}"),
            &["all/+/a", "all/p-3-x/#"],
            &["all/q/a", "all/p-3/a", "all/p-3-x/a/b"],
        );
        check(&prefix("#", "", "$own"), &["$owner/#", "#"], &[]);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn the_way_back_leads_to_the_same_topic(
            topic in "[ab/$]{1,12}",
            from in prop::sample::select(vec!["#", "a/#", "+/#", "+/+/b", "a/+", "a", "/#", "+/b/#", "$a/#"]),
            to in prop::sample::select(vec!["#", "x/#", "+/#", "{1}x/{2}", "b/+", "x", "{2}/{1}", "+/b", "$x/#", "/#"]),
            cut in prop::sample::select(vec!["", "a/", "a", "/"]),
            before in prop::sample::select(vec!["", "a/", "x", "/", "a/b/"]),
        ) {
            let Ok(topic) = TopicName::new(topic) else { return Ok(()) };
            let mappings = [Mapping::template(filter(from), to, "s"), Mapping::prefix(filter(from), cut, before)];
            for mapping in mappings.into_iter().flatten() {
                if let Some(Ok(mapped)) = mapping.apply(&topic) {
                    let back = mapping.back(&mapped);
                    prop_assert!(back.is_none() || back.as_ref() == Some(&topic), "{:?} {} {} {:?}", mapping, topic, mapped, back);
                    if mapping.has_way_back() {
                        prop_assert_eq!(back, Some(topic.clone()), "{:?} {}", mapping, mapped);
                    }
                    if let Some(image) = mapping.image() {
                        prop_assert!(image.matches(&mapped) || mapped.is_reserved(), "{:?} {}", mapping, mapped);
                        prop_assert!(mapping.meets(&filter(mapped.as_str())) || mapped.is_reserved(), "{:?} {}", mapping, mapped);
                    }
                }
            }
        }
    }
}
