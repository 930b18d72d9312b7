//! Suggestions for misspelt names.

/// Names that a misspelt one is compared with; more take too long for each of many faults.
pub(super) const MOST_COMPARED: usize = 2000;
/// The longest list of names in a message.
const MOST_LISTED: usize = 60;

/// Shorter words are part of too many others.
const SHORTEST_PART: usize = 3;
const MOST_CONTAINING: usize = 8;

/// The names that have all words of what was typed in them, such as `eastron-sdm630` for `sdm630`;
/// none if there are many.
fn containing<'a>(typed: &str, known: &[&'a str]) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    let words: Vec<&str> = typed
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let has_all = |name: &&&str| words.iter().all(|word| name.to_lowercase().contains(word));
    let found: Vec<&str> = known.iter().filter(has_all).copied().collect();
    let is_long = words.iter().any(|word| word.len() >= SHORTEST_PART);
    if is_long && found.len() <= MOST_CONTAINING {
        found
    } else {
        Vec::new()
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [name] => format!("did you mean \"{name}\"?"),
        several => format!("did you mean one of: {}?", several.join(", ")),
    }
}

/// True if one of the words was hardly meant otherwise.
pub(super) fn is_slip_of_one(typed: &str, known: &[&str]) -> bool {
    known
        .iter()
        .any(|word| strsim::damerau_levenshtein(typed, word) <= 1)
}

/// ` — did you mean "every"?`, or the whole choice if nothing is near and it is short.
pub fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().take(MOST_COMPARED).collect();
    let nearest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), *word))
        .min();
    let containing = containing(typed, &known);
    match nearest {
        Some((distance, word)) if distance <= 1 + typed.chars().count() / 3 => {
            format!("did you mean \"{word}\"?")
        }
        _ if !containing.is_empty() && containing.len() < known.len() => one_of(&containing),
        _ if known.is_empty() => "there is none to choose from".to_owned(),
        // Too long to read.
        _ if known.len() > MOST_LISTED => "there are many to choose from".to_owned(),
        _ => format!("choose one of: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(
            suggestion("evry", ["every", "type"]),
            "did you mean \"every\"?"
        );
        assert_eq!(
            suggestion("colour", ["every", "type"]),
            "choose one of: every, type"
        );
        let profiles = [
            "eastron-sdm630",
            "eastron-sdm72d-m",
            "eastron-sdm72d-m-v2",
            "kostal-plenticore",
        ];
        assert_eq!(
            suggestion("sdm630", profiles),
            "did you mean \"eastron-sdm630\"?"
        );
        assert_eq!(
            suggestion("SDM72", profiles),
            "did you mean one of: eastron-sdm72d-m, eastron-sdm72d-m-v2?"
        );
    }
}
