//! Mistakes in the mapping of topics.

use super::TopicError;

/// Why a mapping is impossible. Each names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// `strip` does not fit the filter.
    #[error(
        "topics that match `{filter}` need not begin with `{strip}`; write `filter: '{strip}#'`, or another `strip`"
    )]
    Strip {
        /// The filter.
        filter: String,
        /// The part to be taken off.
        strip: String,
    },
    /// Nothing would be left of the topic.
    #[error(
        "nothing is left of `{0}` without `strip`; add `prefix:`, or write the new topic as `to:`"
    )]
    Nothing(String),
    /// `#` is not the last level.
    #[error(
        "`#` stands for the rest of the topic: it must be the last level of `to` and stand alone in it, as in `oilco/#`"
    )]
    MisplacedRest,
    /// The filter has no `#`.
    #[error(
        "`{0}` has no `#` that `to` could carry over; remove `#` from `to`, or end the filter with `/#`"
    )]
    NoRest(String),
    /// `+` is a part of a level.
    #[error(
        "`+` must stand alone in its level of `to`; write {{1}} for the first `+` of the filter to put it into a level, as in `pump-{{1}}`"
    )]
    MisplacedLevel,
    /// More wildcards than the filter has.
    #[error(
        "`to` carries over {wanted} single levels, and `{filter}` has {has} `+`; remove what is too many from `to`, or write `+` in the filter"
    )]
    TooManyLevels {
        /// The filter.
        filter: String,
        /// Wildcards of `to`.
        wanted: usize,
        /// Wildcards of the filter.
        has: usize,
    },
    /// Both kinds of wildcards.
    #[error("`to` has both `+` and numbers; number all of them, such as {{2}}/{{1}}, or none")]
    Mixed,
    /// Two wildcards in one level.
    #[error("one level of `to` takes one number; put a slash between them, as in {{1}}/{{2}}")]
    TwoInOneLevel,
    /// A placeholder that is none.
    #[error(
        "`{{{0}}}` is not known in `to`; use {{site}}, or {{1}} for the first `+` of the filter"
    )]
    Placeholder(String),
    /// `{` without `}`.
    #[error("`to` has a {{ without a }}; placeholders are written {{site}} or {{1}}")]
    Unclosed,
    /// The result is no topic.
    #[error("`{0}` is not a topic: {1}")]
    Topic(String, TopicError),
}
