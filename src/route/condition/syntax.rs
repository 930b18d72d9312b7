//! Conditions as people write them, in the spelling of the parser: names in braces, texts in double
//! quotes, `and`, `or` and `not` as signs. The parser would take `order` for `or der`.

/// Signs that stand for themselves.
const SIGNS: [&str; 17] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "(", ")", ",", "!",
];

/// Translates a condition; the error names the fault and the remedy.
pub(super) fn translate(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the condition is empty; write a comparison such as `v > 80`".to_owned());
    }
    let mut rest = text;
    let mut translated = String::new();
    while let Some(sign) = rest.chars().next() {
        let length = match sign {
            ' ' | '\t' | '\n' => 1,
            '"' | '\'' => quoted(rest, sign, &mut translated)?,
            '{' | '_' => name(rest, text, &mut translated)?,
            sign if sign.is_ascii_alphabetic() => name(rest, text, &mut translated)?,
            sign if sign.is_ascii_digit() => number(rest, &mut translated)?,
            _ => operator(rest, text, &mut translated)?,
        };
        translated.push(' ');
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(translated)
}

/// A text; its length with both quotes.
fn quoted(rest: &str, quote: char, out: &mut String) -> Result<usize, String> {
    let inner = rest.get(1..).unwrap_or_default();
    let Some(end) = inner.find(quote) else {
        return Err(format!("`{rest}` has no closing quote"));
    };
    let inner = inner.get(..end).unwrap_or_default();
    if inner.contains('"') {
        return Err(format!(
            "`{inner}` holds a double quote, which a condition cannot compare"
        ));
    }
    out.extend(["\"", inner, "\""]);
    Ok(end + 2)
}

/// A word or a name: letters, digits, `_` and `.`, and parts in braces.
fn name(rest: &str, text: &str, out: &mut String) -> Result<usize, String> {
    let mut name = String::new();
    let mut length = 0;
    while let Some(sign) = rest.get(length..).and_then(|rest| rest.chars().next()) {
        if sign == '{' {
            let behind = rest.get(length + 1..).unwrap_or_default();
            let end = behind
                .find('}')
                .ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            name.push_str(behind.get(..end).unwrap_or_default());
            length += end + 2;
        } else if sign.is_ascii_alphanumeric() || sign == '_' || sign == '.' {
            name.push(sign);
            length += 1;
        } else {
            break;
        }
    }
    let word = rest.get(..length).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "and" => out.push_str("&&"),
        "or" => out.push_str("||"),
        "not" => return denial(rest, length, text, out),
        "true" | "false" | "known" | "contains" => out.push_str(&word.to_ascii_lowercase()),
        _ if name.is_empty() => return Err(format!("`{text}` has a name without letters: `{{}}`")),
        _ => out.extend(["{", name.as_str(), "}"]),
    }
    Ok(length)
}

/// `not`, or `!`: what it denies is in parentheses, so that nobody has to know how strongly it
/// binds.
fn denial(rest: &str, length: usize, text: &str, out: &mut String) -> Result<usize, String> {
    let behind = rest.get(length..).unwrap_or_default().trim_start();
    if !behind.starts_with('(') {
        return Err(format!(
            "`{text}`: put what `not` denies in parentheses, such as `not (v > 80)`"
        ));
    }
    out.push('!');
    Ok(length)
}

fn number(rest: &str, out: &mut String) -> Result<usize, String> {
    let is_part = |sign: char| sign.is_ascii_digit() || sign == '.';
    let end = rest.find(|sign| !is_part(sign)).unwrap_or(rest.len());
    let digits = rest.get(..end).unwrap_or_default();
    if digits.parse::<f64>().is_err() {
        return Err(format!("`{digits}` is not a number"));
    }
    out.push_str(digits);
    Ok(end)
}

fn operator(rest: &str, text: &str, out: &mut String) -> Result<usize, String> {
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
    match sign {
        Some(&"!") => denial(rest, 1, text, out),
        Some(sign) => {
            out.push_str(sign);
            Ok(sign.len())
        }
        None => {
            let sign = rest.chars().next().unwrap_or_default();
            let remedy = match sign {
                '=' => "; write `==`",
                '&' => "; write `and`",
                '|' => "; write `or`",
                _ => "; put a name with other characters in braces and a text in quotes",
            };
            Err(format!("`{text}` has an unexpected `{sign}`{remedy}"))
        }
    }
}
